"""Decode an object in a window around it; what comes back lies on the pixels of the slice."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch.nn import functional as F

from segkit.data.preprocess import SliceView
from segkit.data.zoom import Window, window_around
from segkit.predictors.engine import GIVEN_LOGIT
from segkit.predictors.slices import EncodedSlices
from segkit.typing import BOX_FIRST, BOX_LAST, NEGATIVE, PADDING, Prompts

Plane = Float[np.ndarray, "rows columns"]
"""Logits on the pixels of a slice."""

_RIM = 2
"""A mask that comes so close to the edge of its window, in pixels, has outgrown it."""
_EXACT = 1e-3
"""Pixels that rounding may have moved the edge of a box."""


@dataclass(frozen=True, slots=True, eq=False)
class CloseUp:
    """What one look at an object gave.

    `logits` are at the decoder's resolution, of `window` or, where it is None, of the whole slice;
    `plane` are the same on the pixels of the slice, with certain background outside the window.
    """

    logits: Float[torch.Tensor, "1 rows cols"]
    iou: float
    plane: Plane
    window: Window | None


def look_closely(
    slices: EncodedSlices,
    index: int,
    prompts: Prompts,
    *,
    prior: Plane | None = None,
    window: Window | None = None,
    multimask: bool = False,
) -> CloseUp:
    """Decode one object of slice `index` in a window around it, as the view's `zoom` says.

    `prompts` are in pixels of the model input of the whole slice, without masks; `prior` is the
    mask so far. A `window` from before is kept while marks and mask lie inside it. Otherwise it is
    opened around box and clicks, around the mask so far, or, where a click is all there is, around
    the mask found in the whole slice.
    """
    view = slices.view
    if view.spec.zoom is None:
        raise ValueError("this view has no zoom")
    window = _kept(view, prompts, prior, window) or _opened(view, prompts, prior)
    if window is None:
        found = _decoded(slices, index, prompts, prior, multimask)
        window = _opened(view, prompts, found.plane)
        if window is None:
            return found
        prior = found.plane
    close = slices.cropped(window)
    inside = _moved(prompts, view, close.view, window)
    before = None if prior is None else prior[window]
    found = _decoded(close, index, inside, before, multimask and before is None)
    plane = np.full(view.shape[1:], -GIVEN_LOGIT, dtype=np.float32)
    plane[window] = found.plane
    return CloseUp(found.logits, found.iou, plane, window)


def reduced(view: SliceView, plane: Plane, cells: tuple[int, int]) -> Float[torch.Tensor, "1 r c"]:
    """Logits on the pixels of a slice at the decoder's resolution; padding is background."""
    (height, width), side = view.content_size, view.spec.size
    drawn = torch.from_numpy(np.ascontiguousarray(plane, dtype=np.float32))[None, None]
    scaled = F.interpolate(drawn.clamp(-GIVEN_LOGIT, GIVEN_LOGIT), (height, width), mode="bilinear")
    padded = F.pad(scaled, (0, side - width, 0, side - height), value=-GIVEN_LOGIT)
    return F.interpolate(padded, cells, mode="area")[0]


def _decoded(
    slices: EncodedSlices, index: int, prompts: Prompts, prior: Plane | None, multimask: bool
) -> CloseUp:
    """One pass over all that a view shows."""
    if prior is not None:
        prompts = replace(prompts, masks=reduced(slices.view, prior, slices.mask_size)[None])
    found = slices.decode(index, prompts, multimask=multimask).best()
    logits = found.logits[0].float().cpu()
    if slices.has_fields:
        plane = slices.on_source(index, prompts)
    else:
        plane = slices.view.logits_to_source([logits.numpy()], [index])[0][0]
    return CloseUp(logits, float(found.iou[0, 0]), plane, None)


def _kept(
    view: SliceView, prompts: Prompts, prior: Plane | None, window: Window | None
) -> Window | None:
    """The window of before, if it still shows all there is."""
    if window is None or prior is None:
        return None
    seen = [_marked(view, prompts, everything=True), _masked(prior)]
    for box in (one for one in seen if one is not None):
        for axis, part in enumerate(window):
            low = part.start + _RIM if part.start else 0
            high = part.stop - _RIM if part.stop < view.shape[1 + axis] else part.stop
            if box[0][axis] < low or box[1][axis] > high:
                return None
    return window


def _opened(view: SliceView, prompts: Prompts, prior: Plane | None) -> Window | None:
    """A window around what is marked; clicks alone say nothing about an extent."""
    is_boxed = bool((prompts.labels == BOX_FIRST).any())
    seen = [None if prior is None else _masked(prior), _marked(view, prompts)]
    boxes = [one for one in seen if one is not None]
    if not boxes or (not is_boxed and seen[0] is None):
        return None
    first = np.min([box[0] for box in boxes], axis=0)
    last = np.max([box[1] for box in boxes], axis=0)
    assert view.spec.zoom is not None
    return window_around(
        first, last, view.shape[1:], factor=view.spec.zoom.factor, spacing_mm=view.spacing_mm[1:]
    )


def _masked(plane: Plane) -> Float[np.ndarray, "2 2"] | None:
    """Half-open box of pixels around the mask."""
    rows, columns = (np.flatnonzero((plane > 0).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return None
    return np.array([[rows[0], columns[0]], [rows[-1] + 1.0, columns[-1] + 1.0]])


def _marked(
    view: SliceView, prompts: Prompts, *, everything: bool = False
) -> Float[np.ndarray, "2 2"] | None:
    """Half-open box of pixels around marks that say where the object is, or around all marks."""
    left_out = {PADDING} if everything else {PADDING, NEGATIVE}
    shown = [label not in left_out for label in prompts.labels[0].tolist()]
    if not any(shown):
        return None
    edges = _edges(prompts)[shown]
    pixels = (edges + 0.5) * np.divide(view.shape[1:], view.content_size)
    first, last = np.floor(pixels.min(axis=0) + _EXACT), np.ceil(pixels.max(axis=0) - _EXACT)
    return np.clip(np.stack([first, last]), 0, view.shape[1:])


def _edges(prompts: Prompts) -> Float[np.ndarray, "marks 2"]:
    """Model pixels (row, column) of marks, box corners at the outer edges of their pixels."""
    points = prompts.points[0, :, 1:].double().numpy().copy()
    labels = prompts.labels[0].numpy()
    points[labels == BOX_FIRST] -= 0.5
    points[labels == BOX_LAST] += 0.5
    return points


def _moved(prompts: Prompts, view: SliceView, close: SliceView, window: Window) -> Prompts:
    """Marks on the model input of the whole slice as marks on that of the window."""
    pixels = (_edges(prompts) + 0.5) * np.divide(view.shape[1:], view.content_size)
    pixels -= [part.start for part in window]
    points = pixels * np.divide(close.content_size, close.shape[1:]) - 0.5
    labels = prompts.labels[0].numpy()
    points[labels == BOX_FIRST] += 0.5
    points[labels == BOX_LAST] -= 0.5
    moved = torch.from_numpy(np.insert(points, 0, 0.0, axis=1)).float()
    return Prompts(moved[None], prompts.labels)
