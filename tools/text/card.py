"""The numbers of the model card, written from the facts so that they cannot differ."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

START, END = "<!-- facts: written by tools.text.export -->", "<!-- end of facts -->"


def write_card(path: Path, facts: Mapping[str, Any]) -> None:
    """Replace what stands between the two marks of a card.

    Raises:
        ValueError: The card lacks a mark.
    """
    text = path.read_text(encoding="utf-8")
    if START not in text or END not in text:
        raise ValueError(f"{path} lacks the marks {START!r} and {END!r}")
    before, rest = text.split(START, 1)
    _, after = rest.split(END, 1)
    part = path.with_suffix(".part")
    part.write_text(f"{before}{START}\n{_section(facts)}\n{END}{after}", encoding="utf-8")
    os.replace(part, path)


def _section(facts: Mapping[str, Any]) -> str:
    training, saliency = facts["training"], facts["saliency"]
    scores = training["scores_on_generated_pictures"]
    plan = training["plan"]
    kinds = "captions and known phrases" if training["phrases"] else "captions alone"
    best = max(row["box_iou"] for row in facts["saliency_candidates"])
    standardised = facts["sizes"]["standardise"]
    rows = (
        ("sha256", f"`{facts['sha256']}`"),
        ("size", f"{facts['bytes']:,} bytes, {facts['parameters']:,} parameters"),
        (
            "saliency",
            f"behind block {saliency['layer']}, beta {saliency['beta']}, "
            f"{saliency['noise']} noise: box IoU {best} on generated validation pictures",
        ),
        (
            "training",
            f"{training['steps']:,} steps, {training['images']:,} pictures, "
            f"{training['processor_minutes']} minutes of processor time, {kinds}, "
            f"rate {plan['rate']:g}",
        ),
        ("input", "standardised channels" if standardised else "mean 0.5, deviation 0.25 for all"),
        ("right caption of 128 first", f"{scores['retrieval']:.3f} (chance 0.008)"),
        ("right tone of 2", f"{scores['tone']:.3f} (chance 0.5)"),
        ("right shape of 4", f"{scores['shape']:.3f} (chance 0.25)"),
        ("best patch on the object", f"{scores['pointing']:.3f} (covered {scores['chance']:.3f})"),
    )
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
