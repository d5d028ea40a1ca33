"""`segkit models`: what models, adapters, decoders and methods are known here."""

import argparse
import hashlib
import json
import sys
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import segkit.models.weights as official
from segkit.cli.model_parts import show_part
from segkit.cli.zoo import list_cards, show_card, write_card, write_cards
from segkit.errors import InputError
from segkit.models.build import BUILDERS
from segkit.models.methods import METHODS, building_blocks, describe
from segkit.models.text_encoder import SHIPPED
from segkit.models.weights import OFFICIAL, local_file

_MIB = 2**20


def run(args: argparse.Namespace) -> int:
    """List, describe or fetch."""
    document, text = _ACTIONS[args.action](args)
    sys.stdout.write((json.dumps(document, indent=2) if args.json else text) + "\n")
    return 0


def _list(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    if args.where is not None:
        return list_cards(args.where)
    blocks = building_blocks()
    document: dict[str, Any] = {
        "backbones": [_weights(name) for name in BUILDERS],
        "adapters": blocks["adapters"],
        "decoders": blocks["decoders"],
        "methods": {name: method.summary for name, method in METHODS.items()},
        "text encoders": {name: _shipped(name) for name in SHIPPED},
    }
    lines = ["backbones"]
    lines += [f"  {_weights_line(one)}" for one in document["backbones"]]
    for title in ("adapters", "decoders", "methods"):
        lines += ["", title, *(f"  {name}: {text}" for name, text in document[title].items())]
    lines += ["", "text encoders", *(f"  {name}: ships with segkit" for name in SHIPPED)]
    lines += ["  biomedclip, folders and models of open_clip: see the guide on text prompts"]
    return document, "\n".join(lines)


def _info(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    if args.where is not None:
        return show_card(args.name, args.where)
    if (part := show_part(args.name)) is not None:
        if args.compat is not None or args.backbone is not None:
            raise InputError(f"{args.name} is no method; it takes neither --compat nor --backbone")
        return part
    found = describe(args.name, compat=args.compat, backbone=args.backbone)
    document = {**asdict(found), "weights": _weights(found.backbone)}
    count = found.parameters
    lines = [
        f"{found.name}: {found.summary}",
        f"source      {found.source}",
        f"backbone    {_weights_line(document['weights'])}",
        f"parameters  {count.total:,}, trained {count.trainable:,}",
    ]
    lines += [
        f"  {part:16} {number:>13,}  trained {count.trainable_parts[part]:>11,}"
        for part, number in count.parts.items()
    ]
    return document, "\n".join(lines)


def _download(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    path = official.download(args.name, progress=_Progress())
    one = OFFICIAL[args.name]
    document = {"name": one.model, "path": str(path), "sha256": one.sha256}
    return document, f"{path} (sha256 {one.sha256}, verified)"


_ACTIONS = {
    "list": _list, "info": _info, "download": _download, "card": write_card, "index": write_cards
}  # fmt: skip


class _Progress:
    """A counter that rewrites its line on a terminal and writes each tenth elsewhere."""

    def __init__(self) -> None:
        self.tenth = -1

    def __call__(self, done: int, total: int) -> None:
        is_terminal = sys.stderr.isatty()
        tenth = 10 * done // total
        if is_terminal:
            end = "\n" if done >= total else ""
            sys.stderr.write(f"\r{done // _MIB:,} of {total // _MIB:,} MiB{end}")
        elif tenth > self.tenth:
            sys.stderr.write(f"{done // _MIB:,} of {total // _MIB:,} MiB\n")
        self.tenth = tenth
        sys.stderr.flush()


def _weights(name: str) -> dict[str, Any]:
    """Size, licence and whereabouts of a backbone's weights; methods may stand on none."""
    if name not in BUILDERS or BUILDERS[name].weights == "none":
        return {"name": name, "image_size": None, "weights": "none"}
    facts: dict[str, Any] = {"name": name, "image_size": BUILDERS[name].sizes.image_size}
    if name in OFFICIAL:
        one = OFFICIAL[name]
        path = local_file(name)
        return facts | {
            "weights": "official",
            "file": one.file,
            "url": one.url,
            "sha256": one.sha256,
            "size_bytes": one.size_bytes,
            "licence": one.licence,
            "path": str(path) if path.is_file() else None,
        }
    kind = BUILDERS[name].weights
    facts |= {"weights": kind, "licence": "Apache-2.0" if kind == "package" else None}
    lifted = getattr(BUILDERS[name].sizes, "sam", None)  # a lift has the weights of its SAM
    stem = name if lifted is None else lifted.name
    return facts | (_shipped(stem) if kind == "package" else {})


def _shipped(name: str) -> dict[str, Any]:
    """File of the package with its hash as it is now; nothing if the installation lacks it."""
    path = Path(str(files("segkit"))) / "weights" / f"{name}.safetensors"
    if not path.is_file():
        return {}
    content = path.read_bytes()
    return {
        "path": str(path),
        "sha256": hashlib.sha256(content).hexdigest(),
        "size_bytes": len(content),
    }


def _weights_line(facts: dict[str, Any]) -> str:
    name, side = facts["name"], facts["image_size"]
    if facts["weights"] == "none":
        return f"{name}: comes with the method's own weights, or is trained from scratch"
    start = f"{name} ({side} px)"
    if facts["weights"] == "official":
        where = facts["path"] or f"{facts['url']}, get it with: segkit models download {name}"
        size = f"{facts['size_bytes'] / _MIB:,.0f} MiB"
        return f"{start}: {size}, {facts['licence']}, sha256 {facts['sha256'][:12]}..., {where}"
    if facts["weights"] == "package":
        state = "ships with segkit" if "path" in facts else "lacks its file in this installation"
        return f"{start}: {state}"
    if facts["weights"] == "required":
        return f"{start}: no weights of its own; `segkit convert` makes them"
    return f"{start}: random weights, for tests"
