"""`python -m segkit.serve`: what an application starts; the same as `segkit serve`."""

import logging
import sys

from segkit.errors import SegkitError
from segkit.serve.command import serve
from segkit.serve.flags import add_arguments

if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(prog="python -m segkit.serve")
    add_arguments(parser)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        sys.exit(serve(parser.parse_args()))
    except SegkitError as error:
        sys.stderr.write(f"segkit serve: {error}\n")
        sys.exit(1)
