"""Why rows of the book miss their targets, and what would help.

What is said here holds for a row that missed when it was last measured; the figures beside it are
those of that run. A row that misses and is not named says so, and the tests name it.
"""

from collections.abc import Mapping

Why = tuple[str, str]
"""Reason and next step."""

MISSES: dict[tuple[str, str], Why] = {
    ("C2", ""): (
        "about 1.7 GFLOP of matrix products over the 4,096 cells are left, half of them in the "
        "upscaling, whose GELUs nobody can leave out; the rest of the official call, the way to "
        "full size, is a smaller share than it was",
        "the second layer looks at the cells with the same keys twice: a kernel that keeps a "
        "stretch of cells in the cache from the scores to the upscaling",
    ),
    ("C8", "dilated adapter, forward + backward"): (
        "the six matrix products, which nobody can leave out, take the share of the authors' time "
        "that the note calls floor; on top come seven GELUs and four GELU gradients, eight "
        "depthwise convolutions and what a step costs around the module, all bound by memory or "
        "by the error function; nothing dear is computed twice any more",
        "GELU fused into the products, which needs a compiled kernel; on a GPU it is (K1, K2)",
    ),
    ("C8", "spatial adapter, forward + backward"): (
        "the six matrix products take the share of the authors' time that the note calls floor, "
        "which leaves next to nothing for four depthwise convolutions over 27 neighbours and the "
        "sums that a step needs around the module",
        "ReLU and mask fused into the products, which needs a compiled kernel; on a GPU (K4)",
    ),
    ("C10", "DD-SAM2, SAM 2.1 T: bytes"): (
        "the trained mask decoder, 4.2 M of 4.8 M parameters, belongs in the file",
        "met in bfloat16, the row below",
    ),
    ("C10", "DD-SAM2, SAM 2.1 T: read into the model"): (
        "a sha256 over all bytes and a check for NaN, which the peer leaves out; the file is an "
        "eighth of the peer's, not a fifteenth",
        "met in bfloat16, the row below; the hash stays, as a damaged file must not load",
    ),
    ("C11", "`import segkit; segkit.Segmenter`"): (
        "a model is a module of torch, and importing torch takes the time of the row `import "
        "torch`",
        "none of ours: what needs no model, help, `segkit.load` and `segkit.measure`, imports no "
        "torch",
    ),
    ("TR5", "after every block"): (
        "one of six blocks lies before the first adapter, and finding what was kept of it takes "
        "about what computing it does; the ratio went from 0.91 on an idle machine to 1.02",
        "none: `cache_features=auto` keeps nothing below a quarter of the blocks",
    ),
}
"""By identifier and a part of the case."""


def explained(row: Mapping[str, object]) -> dict[str, object]:
    """A row with `why it misses` and `next step`, if it misses its target."""
    if row.get("met") != "no":
        return dict(row)
    for (identifier, part), (reason, step) in MISSES.items():
        if row["row"] == identifier and part in str(row["case"]):
            return dict(row) | {"why it misses": reason, "next step": step}
    return dict(row) | {"why it misses": "not known yet", "next step": "profile it"}
