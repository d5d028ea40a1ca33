"""The part of `segkit models` that is about folders of adapters: list, info, card, index."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segkit.data.atomic import atomic_file
from segkit.models.zoo import CARD, Card, find_card, find_cards, make_card, write_index

Answer = tuple[dict[str, Any], str]


def list_cards(where: Path) -> Answer:
    """All adapters of a folder or an index."""
    cards = find_cards(where)
    lines = [f"{card.name}: {_summary(card)}" for card in cards] or ["no adapter here"]
    return {"adapters": [_plain(card) for card in cards]}, "\n".join(lines)


def show_card(name: str, where: Path) -> Answer:
    """One adapter of a folder or an index."""
    card = find_card(name, where)
    lines = [
        f"{card.name}: {card.adapter} on {card.backbone} (sha256 {card.backbone_sha256[:12]}...)",
        f"labels      {', '.join(card.labels.values()) or 'none: prompts'}",
        f"modality    {card.modality or 'not said'}",
        f"input       {card.input['size']} px, {card.input['channels']}, spacing "
        f"{card.input['spacing_mm'] or 'of the file'}",
        f"licence     {card.licence or 'not said'}",
        f"trained on  {card.training_data or 'not said'} (hash of the data), {card.created}",
        f"file        {card.path} (sha256 {card.sha256[:12]}...)",
    ]
    if "cases" in card.metrics:
        lines.append(f"evaluated   {card.metrics['cases']} test case(s)")
    for part, figures in card.metrics.items():
        if isinstance(figures, Mapping):
            lines.append(f"{part:11} {_figures(figures)}")
    return _plain(card), "\n".join(lines)


def write_card(args: argparse.Namespace) -> Answer:
    """Write the card of a run folder or an adapter file."""
    card = make_card(args.run, modality=args.modality, licence=args.licence)
    is_run = args.run.is_dir()
    path = args.run / CARD if is_run else args.run.with_suffix(".card.json")
    with atomic_file(path) as file:
        file.write(card.to_json().encode())
    return _plain(card), str(path)


def write_cards(args: argparse.Namespace) -> Answer:
    """Write the index of a folder of adapters."""
    path = write_index(args.folder)
    return {"index": str(path)}, str(path)


def _plain(card: Card) -> dict[str, Any]:
    return {name: getattr(card, name) for name in card.__slots__}


def _summary(card: Card) -> str:
    parts = [f"{card.adapter} on {card.backbone}", ", ".join(card.labels.values()), card.modality]
    if "mean" in card.metrics:
        parts.append(_figures(card.metrics["mean"]))
    return "; ".join(part for part in (*parts, card.licence) if part)


def _figures(entry: Mapping[str, Any]) -> str:
    dice = entry["dice"]
    low, high = dice["ci95"]
    spread = "" if low is None else f" [{low:.3f}, {high:.3f}]"
    return f"Dice {dice['mean']:.3f}{spread}"
