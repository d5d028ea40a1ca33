"""The flags of `segkit measure`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segkit.data.options import add_read_arguments

EXAMPLE = """examples:
  segkit measure liver.nii.gz
  segkit measure liver.nii.gz --image ct.nii.gz --json
  segkit measure later.nii.gz --before earlier.nii.gz --html change.html
  segkit measure spine.nii.gz --between 1,2
  segkit measure tumour.nii.gz --probability tumour_probability.nii.gz
  segkit measure spine.nii.gz --between 1,2 --probability 1=p1.nii.gz --probability 2=p2.nii.gz
  segkit measure head.png --pixel-mm 0.11,0.11

Diameters follow RECIST 1.1: the longest in any slice of the plane of acquisition, and the longest
at a right angle to it in that slice. Centroids are x,y,z, right-anterior-superior. Of a picture:
area, diameters, and an ellipse with its circumference."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "measure",
        help="volume, surface, diameters and ellipses of a mask; change between two scans",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("mask", type=Path, metavar="MASK", help="label map with a known frame")
    parser.add_argument("--image", type=Path, metavar="IMG", help="also report its values")
    parser.add_argument("--before", type=Path, metavar="MASK", help="an earlier scan's mask")
    parser.add_argument(
        "--between", type=_pair_of(int), metavar="A,B", action="append", default=[],
        help="distances and angle of two labels",
    )  # fmt: skip
    parser.add_argument(
        "--probability", type=_labelled, metavar="[LABEL=]FILE", action="append", default=[],
        help="of a label of the mask: adds 95 %% intervals to what is measured",
    )  # fmt: skip
    parser.add_argument(
        "--before-probability", type=_labelled, metavar="[LABEL=]FILE", action="append",
        default=[], help="of a label of the earlier scan: intervals of the change",
    )  # fmt: skip
    parser.add_argument(
        "--pixel-mm", type=_pair_of(float), metavar="ROW,COL", help="pixel size of a picture"
    )
    parser.add_argument("--json", action="store_true", help="print the measurements as JSON")
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="also write a table, row per label; others beside"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a page")
    reading = parser.add_argument_group("reading (each makes one refusal proceed)")
    add_read_arguments(reading)


def _labelled(text: str) -> tuple[int | None, Path]:
    """Read "2=FILE" or "FILE"."""
    number, found, path = text.partition("=")
    return (int(number), Path(path)) if found and number.isdecimal() else (None, Path(text))


def _pair_of(kind: type) -> Any:
    """Parser of two comma-separated numbers."""

    def parse(text: str) -> Sequence[object]:
        one, two = (kind(part) for part in text.split(","))
        return (one, two)

    parse.__name__ = f"two comma-separated values like {'1,2' if kind is int else '0.1,0.1'}, not"
    return parse
