"""Scores of an encoder on generated validation pictures: what does it tell apart, and where."""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from segkit.text.encoder import TextImageEncoder
from tools.text.pictures import Captioned, captioned_picture
from tools.text.vocabulary import SHAPES, TONES

PICTURES = 128


@lru_cache(maxsize=4)
def pictures(group: int, count: int, size: int) -> tuple[Captioned, ...]:
    """Validation pictures of a group of seeds."""
    return tuple(captioned_picture((group, number), size) for number in range(count))


def pixels_of(shown: tuple[Captioned, ...]) -> Float[Tensor, "n 3 size size"]:
    """Images in [0, 1]."""
    images = np.stack([one.image for one in shown])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


@torch.inference_mode()
def validate(encoder: TextImageEncoder, group: int, count: int = PICTURES) -> dict[str, float]:
    """Shares between 0 and 1.

    `retrieval`: the right one of `count` captions is the first. `tone` (of 2) and `shape` (of 4):
    in pictures with one kind of object. `pointing`: the patch most like the caption lies on the
    described objects; `chance` is the share of the picture they cover.
    """
    encoder.eval()
    shown = pictures(group, count, encoder.spec.image_size)
    images = encoder.pixels(pixels_of(shown))
    captions = [
        one.caption(np.random.default_rng((group, number, 9)), 0)
        for number, one in enumerate(shown)
    ]
    found = encoder.encode_image(images)
    texts = encoder.encode_text(captions)
    right = torch.arange(count)
    single = [number for number, one in enumerate(shown) if len(one.kinds) == 1]
    scores = {"retrieval": ((found @ texts.T).argmax(1) == right).float().mean().item()}
    for part, table in (("tone", TONES), ("shape", SHAPES)):
        classes = encoder.encode_text([_phrase(word) for word in table])
        wanted = torch.tensor([list(table).index(getattr(shown[n].kinds[0], part)) for n in single])
        guess = (found[single] @ classes.T).argmax(1)
        scores[part] = (guess == wanted).float().mean().item()
    hits, covered = _pointing(encoder, shown, images, texts)
    scores |= {"pointing": hits, "chance": covered}
    return {name: round(score, 4) for name, score in scores.items()}


def _phrase(word: str) -> str:
    return "a ring shaped object" if word == "ring" else f"a {word} object"


def _pointing(
    encoder: TextImageEncoder, shown: tuple[Captioned, ...], images: Tensor, texts: Tensor
) -> tuple[float, float]:
    tower = encoder.tower
    tokens = tower.run(tower.embed(images), 0, len(tower.blocks))[:, tower.prefix :]
    n, count, dim = tokens.shape
    # the encoder averages its patches: one patch, seen alone, is an image of itself
    alone = tower.head(tokens.reshape(n * count, 1, dim).repeat(1, 1 + tower.prefix, 1))
    likeness = torch.einsum("npd,nd->np", torch.nn.functional.normalize(
        alone.reshape(n, count, -1), dim=-1), texts)  # fmt: skip
    rows, cols = tower.grid
    hits, covered = [], []
    for one, best in zip(shown, likeness.argmax(1).tolist(), strict=True):
        mask = one.masks[0]
        cell = len(mask) // rows
        row, col = divmod(best, cols)
        hits.append(mask[row * cell : (row + 1) * cell, col * cell : (col + 1) * cell].any())
        covered.append(mask.mean())
    return float(np.mean(hits)), float(np.mean(covered))
