"""`segkit measure`: volume, surface and diameters of the labels of a mask."""

import argparse
import json
import sys
from pathlib import Path

from segkit.data.dicom_seg import read_seg
from segkit.data.options import ReadOptions, add_read_arguments, read_options_from
from segkit.data.readers import load
from segkit.data.volume import Volume
from segkit.errors import InputError
from segkit.metrics.measurements import LabelMeasurement, Measurements, measure

EXAMPLE = """examples:
  segkit measure liver.nii.gz
  segkit measure liver.nii.gz --image ct.nii.gz --json

Diameters follow RECIST 1.1: the longest in any slice of the plane of acquisition, and the longest
at a right angle to it in that slice. Centroids are x,y,z, right-anterior-superior."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "measure",
        help="volume, surface and diameters of a mask, per label",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("mask", type=Path, metavar="MASK", help="label map with a known frame")
    parser.add_argument("--image", type=Path, metavar="IMG", help="also report its values")
    parser.add_argument("--json", action="store_true", help="print the measurements as JSON")
    reading = parser.add_argument_group("reading (each makes one refusal proceed)")
    add_read_arguments(reading)


def run(args: argparse.Namespace) -> int:
    """Measure one mask."""
    options = read_options_from(args)
    image = None if args.image is None else _volume(args.image, options)
    mask = _volume(args.mask, options)
    if image is not None and mask.header.get("format") == "dicom-seg":
        # its own grid holds only the slices with segments
        mask = read_seg(args.mask, like=image, segment=options.frame)
    result = measure(mask, image)
    text = json.dumps(result.to_dict(), indent=2) if args.json else as_table(result)
    sys.stdout.write(text + "\n")
    return 0


def _volume(path: Path, options: ReadOptions) -> Volume:
    found = load(path, options)
    if isinstance(found, Volume):
        return found
    raise InputError(
        "is a picture, which has no millimetres along the third axis",
        path=path,
        fix="give a volume (.nii.gz, .nrrd, .mha or DICOM)",
        code="not_a_volume",
    )


def as_table(result: Measurements) -> str:
    """Measurements in lines of equal columns."""
    if not result.labels:
        return "the mask holds no label"
    head = ["label", "name", "ml", "surface mm2", "longest mm", "perp. mm", "centroid mm"]
    head += ["mean", "sd"] if result.labels[0].intensity is not None else []
    rows = [head, *map(_row, result.labels)]
    widths = [max(len(row[n]) for row in rows) for n in range(len(head))]
    lines = [
        "  ".join(cell.ljust(w) if n == 1 else cell.rjust(w) for n, (cell, w) in cells).rstrip()
        for cells in (list(enumerate(zip(row, widths, strict=True))) for row in rows)
    ]
    return "\n".join(lines)


def _row(label: LabelMeasurement) -> list[str]:
    size = label.diameters
    row = [
        str(label.value),
        label.name,
        f"{label.volume_ml:.3f}",
        f"{label.surface_mm2:.1f}",
        f"{size.longest_mm:.1f}",
        f"{size.perpendicular_mm:.1f}",
        ",".join(f"{value:.1f}" for value in label.centroid_mm),
    ]
    if label.intensity is not None:
        row += [f"{label.intensity.mean:.2f}", f"{label.intensity.sd:.2f}"]
    return row
