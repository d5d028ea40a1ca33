"""The flags of `segkit models`."""

import argparse
from pathlib import Path
from typing import Any

from segkit.models.weights import OFFICIAL

EXAMPLE = """examples:
  segkit models
  segkit models info sam-adapter --compat authors --json
  segkit models info sam_vit_b
  segkit models info nano_clip
  segkit models download sam_vit_b
  segkit models card runs/liver --modality CT --licence CC-BY-4.0
  segkit models list --in adapters/

Files go to $SEGKIT_HOME/models, or ~/.cache/segkit/models, and are checked against their sha256. A
download that was interrupted goes on where it stopped."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "models",
        help="list, describe and fetch models",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_json(parser, default=False)
    parser.set_defaults(action="list")
    _add_where(parser)
    actions = parser.add_subparsers(metavar="list|info|card|index|download")
    listing = actions.add_parser("list", help="all that is known here, or in a folder of adapters")
    _add_actions(actions)
    info = actions.add_parser("info", help="facts about anything in the list")
    info.add_argument("name", metavar="NAME", help="any name of the list, or adapter of a folder")
    info.add_argument("--compat", choices=("authors",), help="the released form of a method")
    info.add_argument("--backbone", metavar="NAME", help="another size of SAM than the usual one")
    info.set_defaults(action="info")
    fetch = actions.add_parser("download", help="fetch the official weights of a backbone")
    fetch.add_argument("name", metavar="NAME", help=f"one of {', '.join(OFFICIAL)}")
    fetch.set_defaults(action="download")
    for one in (listing, info, fetch):
        _add_json(one)
    for one in (listing, info):
        _add_where(one)


def _add_json(parser: argparse.ArgumentParser, default: Any = argparse.SUPPRESS) -> None:
    # suppressed below, so that the flag counts before and after the action
    parser.add_argument(
        "--json", action="store_true", default=default, help="print the facts as JSON"
    )


def _add_actions(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe `card` and `index`."""
    card = actions.add_parser("card", help="write the card of a run folder or an adapter file")
    card.add_argument("run", metavar="RUN", type=Path)
    card.add_argument("--modality", default="", help="such as CT or MR")
    card.add_argument("--licence", default="", help="of the trained weights")
    card.set_defaults(action="card")
    index = actions.add_parser("index", help="list the adapters of a folder in its index.json")
    index.add_argument("folder", metavar="FOLDER", type=Path)
    index.set_defaults(action="index")
    for one in (card, index):
        _add_json(one)


def _add_where(parser: argparse.ArgumentParser) -> None:
    """Add the option that turns `list` and `info` to a folder of adapters."""
    parser.add_argument(
        "--in", dest="where", type=Path, metavar="FOLDER", help="folder or index of adapters"
    )
