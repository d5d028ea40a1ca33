"""Choose the settings of the saliency on generated validation pictures, never on test data."""

from itertools import product
from typing import Any

import numpy as np
import torch

from segkit.text.bottleneck import saliency
from segkit.text.encoder import TextImageEncoder
from segkit.text.regions import find_regions, spread
from segkit.text.settings import Noise, SaliencySettings
from tools.text.pictures import Captioned
from tools.text.validate import pictures, pixels_of

LAYERS = (-1, -2, -3)
BETAS = (0.05, 0.5)
NOISES: tuple[Noise, ...] = ("unit", "channel")


def choose(
    encoder: TextImageEncoder, group: int, count: int
) -> tuple[SaliencySettings, list[dict[str, Any]]]:
    """Settings whose box overlaps that of the described objects best; and the scores of all."""
    shown = pictures(group, count, encoder.spec.image_size)
    pixels = encoder.pixels(pixels_of(shown))
    rngs = (np.random.default_rng((group, number, 9)) for number in range(count))
    captions = [one.caption(rng, 0) for one, rng in zip(shown, rngs, strict=True)]
    with torch.no_grad():
        texts = encoder.encode_text(captions)
    table, best = [], (-1.0, SaliencySettings(layer=LAYERS[0]))
    for layer, beta, noise in product(LAYERS, BETAS, NOISES):
        settings = SaliencySettings(layer=layer, beta=beta, noise=noise)
        maps = spread(saliency(encoder, pixels, texts, settings), shown[0].image.shape[:2])
        score = float(np.mean([overlap(one, values.numpy()) for one, values in
                               zip(shown, maps, strict=True)]))  # fmt: skip
        table.append({"layer": layer, "beta": beta, "noise": noise, "box_iou": round(score, 4)})
        best = max(best, (score, settings), key=lambda pair: pair[0])
    return best[1], table


def overlap(picture: Captioned, values: np.ndarray) -> float:
    """Intersection over union of the box of the best region and that of the described objects."""
    if not (found := find_regions(values)):
        return 0.0
    rows, cols = (np.flatnonzero(picture.masks[0].any(axis)) for axis in (1, 0))
    wanted = np.zeros_like(picture.masks[0])
    wanted[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1] = True
    (top, left), (bottom, right) = found[0].box
    box = np.zeros_like(wanted)
    box[top:bottom, left:right] = True
    return float((box & wanted).sum() / (box | wanted).sum())
