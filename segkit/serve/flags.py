"""The flags of `segkit serve`; reading them needs no package of the extra."""

import argparse
from pathlib import Path

from segkit.serve.settings import TOKEN_VARIABLE, Settings

EXAMPLE = f"""examples:
  segkit serve -m nano                                  # this machine only, page at http://127.0.0.1:1527/
  segkit serve -m nano -m runs/liver --port 0 --token-file token.txt
  segkit serve -m runs/liver --host 0.0.0.0 --token-file token.txt --allow-host seg.hospital.example

One JSON line with "port" and "protocol" is printed when the server is ready. The token is a text
of at least 16 characters in a file of mode 600, or in the variable {TOKEN_VARIABLE}; off loopback
it is a must. The server does not encrypt: put a reverse proxy with TLS before it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the flags."""
    rules = Settings()
    parser.add_argument(
        "-m", "--model", action="append", required=True, metavar="MODEL", dest="models",
        help="run folder, adapter file or name; may be repeated, the first is the default",
    )  # fmt: skip
    parser.add_argument("--host", default=rules.host, help="address to listen on")
    parser.add_argument("--port", type=int, default=rules.port, help="0 picks a free one")
    parser.add_argument("--token-file", type=Path, metavar="F", help="file with the token")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME",
        help="host name clients may use, besides the address",
    )  # fmt: skip
    parser.add_argument(
        "--allow-origin", action="append", default=[], metavar="URL",
        help="web page of another origin that may use the server",
    )  # fmt: skip
    parser.add_argument(
        "--max-sessions", type=int, default=rules.max_leases, help="clients at once"
    )
    parser.add_argument(
        "--idle-seconds", type=float, default=rules.idle_s,
        help="a client without action for so long loses its place",
    )  # fmt: skip
    parser.add_argument(
        "--keep-hours", type=float, default=rules.keep_s / 3600,
        help="how long work of absent clients stays on disk",
    )  # fmt: skip
    parser.add_argument("--no-learning", action="store_true", help="refuse to learn new versions")
    keep = parser.add_mutually_exclusive_group()
    keep.add_argument("--state-dir", type=Path, metavar="DIR", help="where work is kept")
    keep.add_argument("--no-state", action="store_true", help="keep nothing on disk")
