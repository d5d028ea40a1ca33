"""The flags of `segkit serve`."""

import argparse

from segkit.serve.flags import EXAMPLE, add_arguments


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "serve",
        help="serve models to Slicer, napari and the browser",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
