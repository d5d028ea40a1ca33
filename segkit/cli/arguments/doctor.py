"""The flags of `segkit doctor`."""

import argparse

EXAMPLE = """examples:
  segkit doctor
  segkit doctor --json

The exit code is 1 if a package of the core install is missing, a device does not compute, or the
cache cannot be written."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "doctor",
        help="what is installed, what works, what is missing",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
