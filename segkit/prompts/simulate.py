"""Simulated users: which objects they pick and where they click, for training and evaluation.

Masks are `[objects height width]` or `[objects depth height width]`; points come back in voxel
indices (k, j, i), integers at voxel centres, with k = 0 for images. Every choice comes from an
explicit CPU `torch.Generator`. What cannot be marked (an empty mask, a prediction without error)
gets padding, label -1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import cc3d
import edt
import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Generator, Tensor

from segkit.typing import BOX_FIRST, BOX_LAST, NEGATIVE, PADDING, POSITIVE, Prompts

Place = Literal["deepest", "random"]
Component = Literal["largest", "random"]
Mark = tuple[tuple[float, ...], int]
_NOTHING: Mark = ((0.0, 0.0, 0.0), PADDING)
_MISSED, _EXTRA = 1, 2


@dataclass(frozen=True, slots=True)
class Objects:
    """Objects picked from a batch of images: masks, the image of each, its value in the map."""

    masks: Bool[Tensor, " objects *size"]
    image_index: Int[Tensor, " objects"]
    values: Int[Tensor, " objects"]


def sample_objects(
    label_map: Int[Tensor, " n *size"],
    classes: Sequence[int] | None,
    max_objects: int,
    generator: Generator,
) -> Objects:
    """Pick up to `max_objects` values of each image without replacement, in random order.

    `label_map` holds class numbers or instance numbers; `classes` restricts the choice, None means
    every value above 0. An image without any gives no object.

    Raises:
        ValueError: `max_objects` is below 1.
    """
    if max_objects < 1:
        raise ValueError(f"max_objects must be >= 1, got {max_objects}")
    images: list[int] = []
    values: list[int] = []
    for index, image in enumerate(label_map):
        present = [value for value in image.unique().tolist() if value > 0]
        if classes is not None:
            present = [value for value in present if value in classes]
        order = torch.randperm(len(present), generator=generator)[:max_objects]
        values += [present[position] for position in order.tolist()]
        images += [index] * len(order)
    image_index = torch.tensor(images, dtype=torch.long, device=label_map.device)
    chosen = torch.tensor(values, dtype=label_map.dtype, device=label_map.device)
    masks = label_map[image_index] == chosen.view(-1, *(1,) * (label_map.ndim - 1))
    return Objects(masks, image_index, chosen)


def first_click(
    masks: Bool[Tensor, " objects *size"], generator: Generator, *, place: Place = "random"
) -> Prompts:
    """Click once inside each mask: on any of its pixels, or on the one deepest inside."""
    _check(place=(place, Place))
    return _prompts(
        [
            _NOTHING if not mask.any() else (_point(mask, place, generator), POSITIVE)
            for mask in _arrays(masks)
        ],
        masks.device,
    )


def scattered_clicks(
    masks: Bool[Tensor, " objects *size"], generator: Generator, *, inside: int, anywhere: int
) -> Prompts:
    """Click `inside` voxels of each mask and voxels `anywhere`, drawn with replacement.

    Each click says truly whether it lies inside. So 3DSAM-adapter trains, with 10 and 20 clicks
    and without telling the network which is which. An empty mask gets padding for the first kind.
    """
    marks: list[Prompts] = []
    everything = torch.ones_like(masks)
    for count, where in ((inside, masks), (anywhere, everything)):
        marks += [first_click(where, generator) for _ in range(count)]
    points = torch.cat([one.points for one in marks], dim=1)
    labels = torch.cat([one.labels for one in marks], dim=1)
    place = points[..., 3 - (masks.ndim - 1) :].long().unbind(-1)
    rows = torch.arange(len(masks), device=masks.device)[:, None]
    is_inside = masks[(rows, *place)].long()
    return Prompts(points, torch.where(labels == PADDING, labels, is_inside))


def next_click(
    prediction: Bool[Tensor, " objects *size"],
    masks: Bool[Tensor, " objects *size"],
    generator: Generator,
    *,
    component: Component = "largest",
    place: Place = "deepest",
) -> Prompts:
    """Click once into an error of each prediction: add what is missed or remove what is extra.

    Missed and extra regions are connected over corners and never joined with each other.
    `component` picks the largest, or one at random with probability proportional to its size.
    """
    _check(component=(component, Component), place=(place, Place))
    pairs = zip(_arrays(prediction), _arrays(masks), strict=True)
    return _prompts(
        [_correction(found, wanted, generator, component, place) for found, wanted in pairs],
        masks.device,
    )


def box_from_mask(
    masks: Bool[Tensor, " objects *size"],
    generator: Generator | None = None,
    *,
    jitter: float = 0.0,
    max_shift: float = 20.0,
) -> Prompts:
    """Draw the tightest box around each mask, corners inclusive; `jitter` makes it a human's.

    Each side moves by normal noise with a standard deviation of `jitter` times the extent of the
    box along that axis, at most `max_shift` pixels; boxes stay inside the image (source: "Segment
    Anything", Kirillov et al., ICCV 2023, appendix A: 0.1 and 20 pixels).

    Raises:
        ValueError: There is jitter but no generator, or it is negative.
    """
    if jitter < 0 or (jitter and generator is None):
        raise ValueError(f"jitter must be >= 0 and needs a generator if > 0, got {jitter}")
    size = np.array(masks.shape[1:])
    boxes = []
    for mask in _arrays(masks):
        if not mask.any():
            boxes.append((_NOTHING[0], _NOTHING[0], PADDING, PADDING))
            continue
        inside = np.argwhere(mask)
        corners = np.stack([inside.min(0), inside.max(0)]).astype(np.float64)
        if jitter:
            noise = torch.randn(corners.shape, generator=generator, dtype=torch.float64).numpy()
            shift = noise * jitter * (corners[1] - corners[0] + 1)
            corners += shift.clip(-max_shift, max_shift)
            corners = np.sort(corners.clip(0, size - 1), axis=0)
        boxes.append((_kji(corners[0]), _kji(corners[1]), BOX_FIRST, BOX_LAST))
    points = torch.tensor([box[:2] for box in boxes], dtype=torch.float32).reshape(-1, 2, 3)
    labels = torch.tensor([box[2:] for box in boxes], dtype=torch.long).reshape(-1, 2)
    return Prompts(points.to(masks.device), labels.to(masks.device))


def first_prompts(
    masks: Bool[Tensor, " objects *size"],
    generator: Generator,
    *,
    box_share: float = 0.5,
    place: Place = "random",
    jitter: float = 0.02,
    image_index: Int[Tensor, " objects"] | None = None,
) -> Prompts:
    """Start each object with a click or, in `box_share` of the cases, with a box."""
    if not 0 <= box_share <= 1:
        raise ValueError(f"box_share must be in [0, 1], got {box_share}")
    is_box = torch.rand(len(masks), generator=generator) < box_share
    click = first_click(masks, generator, place=place)
    if not is_box.any():
        return replace(click, image_index=image_index)
    box = box_from_mask(masks, generator, jitter=jitter)
    padded = extend(click, _prompts([_NOTHING] * len(masks), masks.device))
    is_box = is_box.to(masks.device)
    return Prompts(
        torch.where(is_box[:, None, None], box.points, padded.points),
        torch.where(is_box[:, None], box.labels, padded.labels),
        image_index=image_index,
    )


def extend(prompts: Prompts, more: Prompts, masks: Tensor | None = None) -> Prompts:
    """Append marks to each object; `masks` are the logits of the prediction so far."""
    return replace(
        prompts,
        points=torch.cat([prompts.points, more.points], dim=1),
        labels=torch.cat([prompts.labels, more.labels], dim=1),
        masks=masks,
    )


def _correction(
    found: np.ndarray, wanted: np.ndarray, generator: Generator, component: str, place: str
) -> Mark:
    errors = _MISSED * (wanted & ~found).astype(np.uint8) + _EXTRA * (found & ~wanted)
    # the labels 1 and 2 are connected separately
    parts, count = cc3d.connected_components(errors, return_N=True)
    if not count:
        return _NOTHING
    sizes = np.bincount(parts.ravel())[1:]
    if component == "largest":
        chosen = int(sizes.argmax()) + 1
    else:
        weights = torch.from_numpy(sizes).double()
        chosen = int(torch.multinomial(weights, 1, generator=generator)) + 1
    region = parts == chosen
    kind = POSITIVE if errors[region][0] == _MISSED else NEGATIVE
    return _point(region, place, generator), kind


def _point(mask: np.ndarray, place: str, generator: Generator) -> tuple[float, ...]:
    """Choose a pixel of a mask that is not empty."""
    if place == "random":
        inside = np.flatnonzero(mask)
        flat = inside[int(torch.randint(len(inside), (1,), generator=generator))]
        return _kji(np.array(np.unravel_index(flat, mask.shape)))
    start, stop = _extent(mask)
    crop = mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    # the edge of the image is an edge of the object
    depth = edt.edt(np.ascontiguousarray(crop), black_border=True)
    return _kji(start + np.array(np.unravel_index(depth.argmax(), depth.shape)))


def _extent(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First index inside and first index behind, per axis."""
    start, stop = [], []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        inside = np.flatnonzero(mask.any(axis=others))
        start.append(inside[0])
        stop.append(inside[-1] + 1)
    return np.array(start), np.array(stop)


def _kji(index: np.ndarray) -> tuple[float, ...]:
    return (0.0,) * (3 - len(index)) + tuple(float(value) for value in index)


def _prompts(marks: list[Mark], device: torch.device) -> Prompts:
    points = torch.tensor([point for point, _ in marks], dtype=torch.float32)
    labels = torch.tensor([label for _, label in marks], dtype=torch.long)
    return Prompts(points.reshape(-1, 1, 3).to(device), labels.reshape(-1, 1).to(device))


def _arrays(masks: Tensor) -> np.ndarray:
    return masks.detach().bool().cpu().numpy()


def _check(**options: tuple[str, object]) -> None:
    for name, (value, kind) in options.items():
        if value not in (allowed := get_args(kind)):
            raise ValueError(f"{name} must be one of {allowed}, got {value!r}")
