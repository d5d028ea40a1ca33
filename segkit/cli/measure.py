"""`segkit measure`: sizes of the labels of a mask, their relations, and change between scans."""

import argparse
import csv
import html
import io
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from segkit.cli.measure_intervals import intervals_of_picture, read_volume, volume_intervals
from segkit.data.atomic import atomic_file
from segkit.data.dicom_seg import read_seg
from segkit.data.options import ReadOptions, read_options_from
from segkit.data.readers import load
from segkit.data.volume import Picture, Volume
from segkit.errors import InputError
from segkit.metrics.measurements import measure
from segkit.metrics.shapes import change, describe_shapes, measure_picture, relate

Rows = list[dict[str, object]]


def run(args: argparse.Namespace) -> int:
    """Measure one mask."""
    options = read_options_from(args)
    found = load(args.mask, options)
    result = (
        _of_picture(found, args) if isinstance(found, Picture) else _of_volume(found, args, options)
    )
    if args.csv is not None:
        _write_tables(args.csv, result)
    if args.html is not None:
        with atomic_file(args.html) as file:
            file.write(_as_html(result).encode())
    text = json.dumps(result, indent=2) if args.json else as_text(result)
    sys.stdout.write(text + "\n")
    return 0


def _of_volume(mask: Volume, args: argparse.Namespace, options: ReadOptions) -> dict[str, Any]:
    image = None if args.image is None else read_volume(args.image, options)
    if image is not None and mask.header.get("format") == "dicom-seg":
        # its own grid holds only the slices with segments
        mask = read_seg(args.mask, like=image, segment=options.frame)
    measured = measure(mask, image)
    result = measured.to_dict()
    result["definitions"] = {**measured.to_dict()["definitions"], **describe_shapes()}  # type: ignore[dict-item]
    result["relations"] = [
        asdict(relate(mask.array, mask.geometry, *pair)) for pair in args.between
    ]
    before = None
    if args.before is not None:
        before = measure(read_volume(args.before, options))
        result["change"] = [asdict(each) for each in change(before, measured)]
    result["intervals"] = volume_intervals(args, options, mask, measured, before)
    return result


def _of_picture(mask: Picture, args: argparse.Namespace) -> dict[str, Any]:
    given = {
        "--image": args.image, "--before": args.before, "--between": args.between,
        "--before-probability": args.before_probability,
    }  # fmt: skip
    if used := [option for option, value in given.items() if value]:
        raise InputError(f"is a picture; {used[0]} is for volumes", path=args.mask, code="picture")
    spacing = args.pixel_mm or mask.spacing_mm
    if spacing is None:
        raise InputError(
            "is a picture of unknown pixel size, so nothing can be measured in mm",
            path=args.mask,
            fix="give it as --pixel-mm ROW,COL",
            code="unknown_frame",
            option="--pixel-mm",
        )
    try:
        labels = measure_picture(mask.array, spacing)
    except InputError as error:
        raise InputError(error.cause, fix=error.fix, path=args.mask, code=error.code) from error
    return {
        "format": 1,
        "definitions": describe_shapes(),
        "labels": [asdict(label) for label in labels],
        "intervals": intervals_of_picture(args, [label.value for label in labels], mask, spacing),
        "spacing_mm": spacing,
    }


def as_text(result: Mapping[str, Any]) -> str:
    """Tables in lines of equal columns."""
    if not result["labels"]:
        return "the mask holds no label"
    return "\n\n".join(_as_table(rows) for _, rows in _tables(result))


def _tables(result: Mapping[str, Any]) -> list[tuple[str, Rows]]:
    """Flat tables of a result by title, the labels first."""
    names = ("labels", "relations", "change", "intervals")
    return [(name, list(map(_flat, result[name]))) for name in names if result.get(name)]


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """One level of names; nothing that is None."""
    flat: dict[str, object] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, "" if name == "diameters" else f"{name}_")
        elif value is not None:
            flat[prefix + name] = value
    return flat


def _as_table(rows: Rows) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns, *([_cell(row.get(name, "")) for name in columns] for row in rows)]
    widths = [max(len(row[n]) for row in cells) for n in range(len(columns))]
    lines = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(lines)


def _cell(value: object) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_cell, value))
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _write_tables(path: Path, result: Mapping[str, Any]) -> None:
    """The labels go to `path`, other tables to files of their own beside it."""
    tables = dict(_tables(result))
    for name, rows in {"labels": [], **tables}.items():
        place = path if name == "labels" else path.with_name(f"{path.stem}_{name}{path.suffix}")
        with atomic_file(place) as file:
            file.write(_as_csv(rows).encode())


def _as_csv(rows: Rows) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([_exact(row.get(name, "")) for name in columns] for row in rows)
    return text.getvalue()


def _exact(value: object) -> object:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else value


def _as_html(result: Mapping[str, Any]) -> str:
    parts = [
        f"<h2>{title}</h2><table>{_html_rows(rows)}</table>" for title, rows in _tables(result)
    ]
    meanings = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>"
        for name, text in result["definitions"].items()
    )
    style = "body{font:15px sans-serif;margin:2em}td,th{padding:.2em .8em;text-align:right}"
    return (
        f"<!doctype html><meta charset=utf-8><title>Measurements</title><style>{style}</style>"
        f"<h1>Measurements</h1>{''.join(parts)}<h2>definitions</h2><dl>{meanings}</dl>"
    )


def _html_rows(rows: Rows) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [(f"<td>{html.escape(_cell(row.get(n, '')))}</td>" for n in columns) for row in rows]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    return f"<tr>{head}</tr>" + "".join(f"<tr>{''.join(row)}</tr>" for row in cells)
