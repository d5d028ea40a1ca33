"""Training on windows around objects, as `segkit.data.zoom` describes them for prediction."""

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from segkit.data.zoom import Window, Zoom, window_around
from segkit.models.segmenter import upsample
from segkit.prompts.simulate import Objects

BOXED, CLICKED = (0.75, 1.5), (0.75, 4.0)
"""Windows in training are between so many times as wide as in prediction: a box tells the extent of
an object, a click does not."""
_SHIFT = 0.7
"""Largest way off the centre, as a share of what lies around the object."""


@dataclass(frozen=True, slots=True)
class CloseUps:
    """Windows around the objects of a batch: `image` and `objects` show one object each.

    `masks` are the objects on the whole images.
    """

    image: Float[Tensor, "objects 3 size size"]
    objects: Objects
    windows: tuple[Window, ...]
    masks: Bool[Tensor, "objects h w"]

    def paste(self, logits: Float[Tensor, "objects 1 cells cells"]) -> Float[Tensor, "objects h w"]:
        """Logits of the windows on the pixels of the whole images; -inf outside."""
        out = torch.full(self.masks.shape, -torch.inf, dtype=logits.dtype, device=logits.device)
        for row, window in enumerate(self.windows):
            size = tuple(part.stop - part.start for part in window)
            out[row, window[0], window[1]] = upsample(logits[row][None], size)[0, 0]
        return out


def close_ups(
    image: Float[Tensor, "n 3 h w"],
    objects: Objects,
    zoom: Zoom,
    generator: Generator,
    widths: tuple[float, float] | None = None,
) -> CloseUps:
    """Cut a window out around each object, at random places and between so many times as wide."""
    windows = tuple(_window(mask.cpu().numpy(), zoom, generator, widths) for mask in objects.masks)
    index: Int[Tensor, " objects"] = objects.image_index
    size = (zoom.size, zoom.size)
    pictures, masks = [], []
    for row, (rows, columns) in enumerate(windows):
        part = image[index[row], :, rows, columns][None]
        pictures.append(F.interpolate(part, size, mode="bilinear", antialias=True)[0])
        mask = objects.masks[row, rows, columns][None, None]
        masks.append(F.interpolate(mask.float(), size, mode="nearest-exact")[0, 0] > 0)
    seen = replace(
        objects,
        masks=torch.stack(masks),
        image_index=torch.arange(len(windows), device=index.device),
    )
    return CloseUps(torch.stack(pictures), seen, windows, objects.masks)


def _window(
    mask: Bool[np.ndarray, "h w"],
    zoom: Zoom,
    generator: Generator,
    widths: tuple[float, float] | None,
) -> Window:
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    factor, shift = zoom.factor, (0.0, 0.0)
    if widths is not None:
        draw = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        low, high = np.log(widths)
        factor = max(1.0, factor * float(np.exp(low + draw[0] * (high - low))))
        shift = (_SHIFT * (2 * draw[1] - 1), _SHIFT * (2 * draw[2] - 1))
    return window_around(
        (int(rows[0]), int(columns[0])),
        (int(rows[-1]) + 1, int(columns[-1]) + 1),
        mask.shape,
        factor=factor,
        shift=shift,
    )
