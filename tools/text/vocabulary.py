"""Words of the captions, and how a kind of object is put into a sentence."""

from dataclasses import dataclass

import numpy as np

TONES: dict[str, tuple[str, ...]] = {
    "bright": ("bright", "light", "white"),
    "dark": ("dark", "black"),
}
SHAPES: dict[str, tuple[str, ...]] = {
    "round": ("round", "circular"),
    "long": ("long", "elongated", "thin"),
    "ring": ("ring", "hollow"),
    "irregular": ("irregular", "ragged"),
}
SIZES: dict[str, tuple[str, ...]] = {"small": ("small", "tiny"), "large": ("large", "big")}
ROWS: dict[str, tuple[str, ...]] = {"upper": ("upper", "top"), "lower": ("lower", "bottom")}
COLUMNS: dict[str, tuple[str, ...]] = {"left": ("left",), "right": ("right",)}
COUNTS = ("a", "two", "three")
NOUNS = ("lesion", "mass", "object", "structure", "tumour", "nodule", "polyp", "spot")
GROUNDS = ("organ", "tissue")

VOCABULARY: tuple[str, ...] = tuple(
    sorted(
        {word for table in (TONES, SHAPES, SIZES, ROWS, COLUMNS) for words in table.values()
         for word in words}
        | set(NOUNS) | {f"{noun}s" for noun in NOUNS if noun != "mass"}
        | {"masses", "vessel", "vessels", "rings", "head", "heads", "skull", "skulls", "nucleus",
           "nuclei", "cell", "cells", "shaped", "two", "three", "one", "in", "the", "a", *GROUNDS}
    )
)  # fmt: skip
"""Words the tokenizer knows."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a caption can say about a group of equal objects; `place` is None in the middle band."""

    tone: str
    shape: str
    size: str | None
    row: str | None
    column: str | None
    count: int
    ground: str | None


def describe(rng: np.random.Generator, kind: Kind, drop: float = 0.35) -> str:
    """One wording of a kind; each optional part is left out with probability `drop`.

    Tone or shape is always said, so that a caption means something.
    """
    says_tone, says_shape = rng.random(2) >= 0.25
    if not says_tone and not says_shape:
        says_tone = says_shape = True
    parts = [COUNTS[kind.count - 1] if kind.count > 1 or rng.random() < 0.8 else "one"]
    if kind.size and rng.random() > drop:
        parts.append(_pick(rng, SIZES[kind.size]))
    if says_tone:
        parts.append(_pick(rng, TONES[kind.tone]))
    noun = _noun(rng, kind, says_shape)
    if says_shape and noun[1]:
        parts.append(noun[1])
    parts.append(_plural(noun[0]) if kind.count > 1 else noun[0])
    if kind.ground and rng.random() > drop:
        parts += ["in", "a", _pick(rng, TONES[kind.ground]), _pick(rng, GROUNDS)]
    place = [
        _pick(rng, words[side])
        for words, side in ((ROWS, kind.row), (COLUMNS, kind.column))
        if side
    ]
    if place and rng.random() > drop:
        parts += ["in", "the", *place]
    return " ".join(parts)


def _noun(rng: np.random.Generator, kind: Kind, says_shape: bool) -> tuple[str, str]:
    """A noun and the adjective of shape before it; a ring and a vessel say their shape alone."""
    if says_shape and kind.shape == "ring" and rng.random() < 0.4:
        return (_pick(rng, ("ring", "ring", "head", "skull")), "")
    if says_shape and kind.shape == "long" and rng.random() < 0.3:
        return ("vessel", "")
    adjective = _pick(rng, SHAPES[kind.shape])
    return (_pick(rng, NOUNS), "ring shaped" if adjective == "ring" else adjective)


def _plural(noun: str) -> str:
    return noun + ("es" if noun.endswith("s") else "s")


def _pick(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[int(rng.integers(len(words)))]
