"""The part of `segkit models info` about what is no model of its own: encoders of words, parts."""

import difflib
import inspect
import json
import math
from typing import Any

from safetensors import safe_open

import segkit.adapters
import segkit.decoders
from segkit.cli.zoo import Answer
from segkit.errors import InputError
from segkit.models.build import BUILDERS
from segkit.models.methods import METHODS, building_blocks
from segkit.models.sources import package_file
from segkit.models.text_encoder import HEADER, KEPT, SHIPPED

_MIB = 2**20


def names() -> list[str]:
    """Everything that `segkit models info` knows, models first."""
    blocks = building_blocks()
    return [*METHODS, *BUILDERS, *SHIPPED, *KEPT, *blocks["adapters"], *blocks["decoders"]]


def show_part(name: str) -> Answer | None:
    """Facts about a text encoder, an adapter or a decoder; None for the name of a model.

    Raises:
        InputError: Nothing of that name is known.
    """
    if name in METHODS or name in BUILDERS:
        return None
    if name in SHIPPED:
        return _shipped_encoder(name)
    if name in KEPT:
        return _kept_encoder(name)
    for kind, found in building_blocks().items():
        if name in found:
            return _block(name, kind.removesuffix("s"), found[name])
    near = difflib.get_close_matches(name, names(), n=1)
    raise InputError(
        f"nothing is known by the name {name!r}",
        fix=f"did you mean {near[0]!r}?"
        if near
        else "`segkit models` lists every name; adapters of yours need --in FOLDER",
        code="unknown_model",
    )


def _shipped_encoder(name: str) -> Answer:
    """What header and shapes of the shipped file say; no weight is read, open_clip not needed."""
    path, sha256 = package_file(name)
    with safe_open(path, "pt") as file:
        told = json.loads(file.metadata()[HEADER])
        counts = {key: math.prod(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    image = sum(count for key, count in counts.items() if key.startswith("visual."))
    total, sizes = sum(counts.values()), told["sizes"]
    document = {
        "name": name,
        "kind": "text encoder",
        "licence": "Apache-2.0",
        "path": str(path),
        "sha256": sha256,
        "size_bytes": path.stat().st_size,
        "parameters": {"total": total, "parts": {"image": image, "text": total - image}},
        "sizes": sizes,
        "words": told["words"],
        "saliency": told["saliency"],
    }
    lines = [
        f"{name}: text encoder, finds what words describe; trained on generated pictures only",
        f"use         segkit predict INPUT -m nano -o OUT --text WORDS --text-encoder {name}",
        f"images      {sizes['image_size']} x {sizes['image_size']} pixels, patches of "
        f"{sizes['patch_size']}, {sizes['features']} features",
        f"words       {', '.join(told['words'])}",
        f"parameters  {total:,}: image {image:,}, text {total - image:,}",
        f"licence     Apache-2.0, {document['size_bytes'] / _MIB:.1f} MiB",
        f"file        {path} (sha256 {sha256[:12]}...)",
    ]
    return document, "\n".join(lines)


def _kept_encoder(name: str) -> Answer:
    page = f"https://huggingface.co/{KEPT[name]}"
    document = {"name": name, "kind": "text encoder", "weights": "not shipped", "url": page}
    where = f"download its files from {page} into $SEGKIT_HOME/models/{name}"
    return document, f"{name}: text encoder\nweights     {where}"


def _block(name: str, kind: str, summary: str) -> Answer:
    """First line and arguments of a class."""
    one = getattr(segkit.adapters if kind == "adapter" else segkit.decoders, name)
    signature = inspect.signature(one).parameters.values()
    arguments = {
        each.name: None if each.default is each.empty else _plain(each.default)
        for each in signature
        if each.kind is each.KEYWORD_ONLY  # what comes before them, segkit fills in
    }
    document: dict[str, Any] = {"name": name, "kind": kind, "summary": summary}
    document |= {"class": f"{one.__module__}.{name}", "arguments": arguments}
    told = ", ".join(f"{key}={value}" for key, value in arguments.items())
    lines = [f"{name}: {kind}", summary, f"class       {document['class']}", f"arguments   {told}"]
    return document, "\n".join(lines)


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else str(value)
