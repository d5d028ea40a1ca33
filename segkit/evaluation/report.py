"""`report.html`: one file with everything a reader needs, no scripts and nothing to load."""

import base64
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from segkit.evaluation import figures
from segkit.evaluation.clips_figures import FilmStrip
from segkit.evaluation.examples import Example
from segkit.evaluation.interactions import TARGETS
from segkit.evaluation.results import write_atomically
from segkit.evaluation.run_record import RunRecord
from segkit.evaluation.scores import ScoreTable
from segkit.evaluation.theme import CLASS_COLOURS, DARK, LIGHT, Theme
from segkit.metrics.clip import CLIP_FIGURES
from segkit.metrics.saliency import SALIENCY
from segkit.version import VERSION

Summary = Mapping[str, Any]

_NAMES = {
    "dice": "Dice",
    "iou": "IoU",
    "nsd": "NSD",
    "hd95_mm": "HD95",
    "assd_mm": "ASSD",
    "calibration": "Calibration",
    "s_measure": "S-measure",
    "weighted_f": "Weighted F",
    "e_measure": "E-measure",
    "mae": "MAE",
    "mean_dice": "Mean Dice of thresholds",
    "mean_iou": "Mean IoU of thresholds",
    "j": "J",
    "f": "F",
    "j_and_f": "J&F",
    "stack_dice": "Dice as one volume",
    "consistency": "Temporal consistency",
    "frames": "Frames",
}


def write_report(
    folder: Path,
    summary: Summary,
    table: ScoreTable,
    examples: Sequence[Example] = (),
    *,
    strips: Sequence[FilmStrip] = (),
    run: RunRecord | None = None,
) -> Path:
    """Write `report.html` and `figures/*.png` into `folder` and return the page.

    `summary` is the document of `summary.json`; `run` adds learning curves and settings.
    """
    run = run or RunRecord()
    light, dark = (_draw(theme, summary, table, examples, strips, run) for theme in (LIGHT, DARK))
    for name, image in light.items():
        write_atomically(folder / "figures" / f"{name}.png", image)
    encoded = {
        name: {"light": _encode(image), "dark": _encode(dark[name])}
        for name, image in light.items()
    }
    page = (
        _environment()
        .get_template("report.html.jinja")
        .render(
            summary=summary,
            figures=encoded,
            version=VERSION,
            **_head(summary),
            **_tables(summary),
            **_clicks(summary),
            **_examples(summary, examples),
            strips=strips,
            **_facts(summary, run),
        )
    )
    path = folder / "report.html"
    write_atomically(path, page.encode())
    return path


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("segkit.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda value, digits: f"{value:.{digits}f}"
    environment.filters["signed"] = lambda value, digits: f"{value:+.{digits}f}".replace("-", "−")
    environment.filters["p_value"] = lambda p: "< 0.001" if p < 0.001 else f"= {p:.3f}"
    return environment


def _draw(
    theme: Theme,
    summary: Summary,
    table: ScoreTable,
    examples: Sequence[Example],
    strips: Sequence[FilmStrip],
    run: RunRecord,
) -> dict[str, bytes]:
    """All figures by file name, without suffix."""
    titles = {name: row["title"] for name, row in summary["rows"].items()}
    unit = summary["unit"]
    shown = {"dice": "Dice", "nsd": f"NSD {_tolerance(summary)}", "hd95_mm": f"HD95 ({unit})"}
    drawn = {"distributions": figures.distributions(table, shown, titles, theme)}
    for example in examples:
        drawn[f"example_{example.place}"] = figures.overlay(example, titles, table.labels, theme)
    for strip in strips:
        drawn[f"strip_{strip.place}"] = figures.film_strip(strip, titles, table.labels, theme)
    if summary["robustness"]:
        drawn["robustness"] = figures.robustness(summary["robustness"], titles, theme)
    if run.curves:
        drawn["learning_curves"] = figures.learning_curves(run.curves, theme)
    return drawn


def _encode(image: bytes) -> str:
    return base64.b64encode(image).decode()


def _tolerance(summary: Summary) -> str:
    return f"@ {summary['tolerance']:g} {summary['unit']}"


def _role(name: str) -> str:
    return name if name in ("adapted", "zero_shot") else "other"


def _rows(summary: Summary) -> list[dict[str, Any]]:
    """Rows of the main table, the model first."""
    order = sorted(summary["rows"], key=lambda name: name != summary["headline"])
    seconds = summary["timing"]["seconds_per_case"]
    return [
        {**summary["rows"][name], "role": _role(name), "seconds": seconds[name]["mean"]}
        for name in order
    ]


def _head(summary: Summary) -> dict[str, Any]:
    rows = _rows(summary)
    return {
        "classes": ", ".join(entry["name"] for entry in summary["classes"].values()),
        "unit": summary["unit"],
        "tolerance": _tolerance(summary),
        "level": f"{summary['bootstrap']['level']:.0%}",
        "tiles": [
            {"title": row["title"], "role": row["role"], "dice": row["mean"]["dice"]}
            for row in rows
            if row["role"] != "other"
        ],
        "gain": summary["differences"].get("adapted - zero_shot", {}).get("dice"),
    }


def _tables(summary: Summary) -> dict[str, Any]:
    rows = _rows(summary)
    by_class = [
        {
            "name": entry["name"],
            "value": value,
            "rows": [{**row, "entry": row["classes"][value]} for row in rows],
        }
        for value, entry in summary["classes"].items()
    ]
    return {
        "rows": rows,
        "by_class": by_class,
        "has_oracle": any(row["is_oracle"] for row in rows),
        "notes": [f"{row['title']}: {row['note']}." for row in rows if row["note"]],
        "headline": rows[0]["title"],
        "calibrated": [row for row in rows if "calibration" in row],
        "salient": [row for row in rows if "saliency" in row],
        "map_figures": {name: _NAMES[name] for name in SALIENCY},
        "followed": [row for row in rows if "clip" in row],
        "clip_figures": {name: _NAMES[name] for name in CLIP_FIGURES},
    }


def _clicks(summary: Summary) -> dict[str, Any]:
    """What it took to mark objects in volumes; models that were shown none are left out."""
    return {
        "interactions": [
            {"title": _untold(summary["rows"][name]["title"]), **found}
            for name, found in summary.get("interactions", {}).items()
            if found["objects"]
        ],
        "click_targets": [f"{target:g}" for target in TARGETS],
    }


def _untold(title: str) -> str:
    """Title of a row without its number of clicks."""
    return re.sub(r", \d+ clicks?$", "", title)


def _examples(summary: Summary, examples: Sequence[Example]) -> dict[str, Any]:
    names = [entry["name"] for entry in summary["classes"].values()]
    colours = [CLASS_COLOURS[number % len(CLASS_COLOURS)] for number in range(len(names))]
    return {
        "examples": [
            {"place": one.place, "case": one.case, "figure": f"example_{one.place}"}
            for one in examples
        ],
        "keys": [
            {"name": name, "colour": colour} for name, colour in zip(names, colours, strict=True)
        ],
    }


def _facts(summary: Summary, run: RunRecord) -> dict[str, Any]:
    facts = dict(summary["facts"])
    timing = summary["timing"]
    memory = timing["peak_memory_mb"]
    facts["evaluation took"] = f"{timing['total_seconds']:.1f} s"
    if memory:
        facts["peak memory"] = ", ".join(f"{kind} {mb:.0f} MiB" for kind, mb in memory.items())
    facts |= run.facts
    return {
        "facts": [(name.replace("_", " "), text) for name, text in facts.items()],
        "config": list(run.config.items()),
        "plan": run.plan,
        "fingerprint": [(name.replace("_", " "), text) for name, text in run.fingerprint.items()],
        "definitions": [
            (_NAMES.get(name, name), text) for name, text in summary["definitions"].items()
        ],
    }
