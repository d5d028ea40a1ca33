import pytest

pytest.importorskip("open_clip", reason="needs segkit[text]")

from segkit.text.small import SmallSizes, build_small

SIZES = SmallSizes(
    image_size=32,
    patch_size=8,
    width=32,
    depth=3,
    heads=2,
    features=16,
    text_width=32,
    text_depth=1,
)
WORDS = ("bright", "dark", "round", "long", "ring", "lesion", "two")


@pytest.fixture(scope="session")
def encoder():
    """Random weights, large enough that features differ."""
    return build_small(SIZES, WORDS, seed=3)
