"""Small models of the CLIP class of `open_clip`, with a vocabulary of whole words."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from segkit.text.encoder import EncoderSpec, TextImageEncoder
from segkit.text.extra import import_open_clip
from segkit.text.settings import SaliencySettings
from segkit.text.words import WordTokenizer

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


@dataclass(frozen=True, slots=True)
class SmallSizes:
    """Sizes of both encoders. Patch tokens are averaged, there is no class token at the end.

    With `standardise` each channel of an image is brought to mean 0 and deviation 1: its grey level
    and tint as a whole say nothing.
    """

    image_size: int = 72
    patch_size: int = 8
    width: int = 96
    depth: int = 4
    heads: int = 3
    mlp_ratio: float = 2.0
    features: int = 64
    context: int = 16
    text_width: int = 64
    text_depth: int = 2
    text_heads: int = 2
    standardise: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def build_small(
    sizes: SmallSizes,
    words: Sequence[str],
    *,
    name: str = "small",
    seed: int = 0,
    saliency: Mapping[str, Any] | None = None,
    sha256: str = "",
) -> TextImageEncoder:
    """Build an encoder with random weights, the same for the same seed.

    Raises:
        MissingExtraError: `open_clip` is not installed.
        InputError: The vocabulary or a setting is not usable.

    Example:
        >>> encoder = build_small(SmallSizes(image_size=16, width=48, depth=1), ("bright",))
        >>> encoder(torch.zeros(2, 3, 16, 16), ["bright"]).shape
        torch.Size([2, 1])
    """
    open_clip = import_open_clip()
    tokenizer = WordTokenizer(words, sizes.context)
    vision = {
        "image_size": sizes.image_size,
        "patch_size": sizes.patch_size,
        "width": sizes.width,
        "layers": sizes.depth,
        "head_width": sizes.width // sizes.heads,
        "mlp_ratio": sizes.mlp_ratio,
        "pool_type": "avg",
    }
    text = {
        "context_length": sizes.context,
        "vocab_size": tokenizer.size,
        "width": sizes.text_width,
        "heads": sizes.text_heads,
        "layers": sizes.text_depth,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.model.CLIP(sizes.features, vision, text)
    mean, std = (None, None) if sizes.standardise else (MEAN, STD)
    settings = SaliencySettings.from_dict(saliency or {"layer": -1})
    spec = EncoderSpec(name, sizes.image_size, mean, std, sha256, settings)
    return TextImageEncoder(model, tokenizer, spec=spec).eval()
