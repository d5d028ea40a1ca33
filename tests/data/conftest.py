"""Data sets made of tiny files."""

from collections.abc import Callable
from pathlib import Path

import pytest

Fill = Callable[..., None]


def _fill(root: Path, *names: str) -> None:
    """Write a tree of files, each with content of its own."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(path))


@pytest.fixture
def fill() -> Fill:
    """`fill(root, *names)` writes text files."""
    return _fill


@pytest.fixture
def pairs() -> Fill:
    """`pairs(root, *stems, images="images", masks="masks")` writes image and mask files."""

    def write(root: Path, *stems: str, images: str = "images", masks: str = "masks") -> None:
        for name in stems:
            _fill(root, f"{images}/{name}.png", f"{masks}/{name}.png")

    return write
