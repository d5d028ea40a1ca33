"""`segkit serve`: models for Slicer, napari, MONAI Label clients and the browser."""

import argparse
from types import ModuleType

from segkit.errors import MissingExtraError


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the command."""
    command = _command()
    parser = subparsers.add_parser(
        "serve",
        help="serve models to Slicer, napari and the browser",
        epilog=command.EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    return int(_command().serve(args))


def _command() -> ModuleType:
    """The implementation, which needs packages of the extra."""
    try:
        from segkit.serve import command
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "fastapi", "serve") from error
    return command
