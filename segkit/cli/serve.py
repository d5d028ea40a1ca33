"""`segkit serve`: models for Slicer, napari, MONAI Label clients and the browser."""

import argparse

from segkit.errors import MissingExtraError


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    try:  # the implementation needs packages of the extra
        from segkit.serve import command
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "fastapi", "serve") from error
    return command.serve(args)
