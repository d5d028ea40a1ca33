"""Carry a mask from slice to slice with a model that sees one slice at a time.

Each slice is prompted with what the mask of its neighbour shows (source of the idea: "Segment
Anything for Microscopy", Archit et al., Nature Methods 2025, volumetric segmentation by projected
prompts). Between two marked slices whose masks overlap, the outline between theirs gives the
prompts, so that errors do not add up; if they do not overlap, each is carried to the middle.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from segkit.models.segmenter import upsample
from segkit.predictors.engine import Propagation
from segkit.predictors.shape_interpolation import between
from segkit.predictors.slices import EncodedSlices
from segkit.predictors.watch import Watch
from segkit.prompts.simulate import box_from_mask, extend, first_click
from segkit.typing import Prompts

Logits = Float[Tensor, "1 rows cols"]

LEAST_SHARE = 0.1
"""A mask smaller than this share of the mask it came from, slice by slice, is a collapse."""


def carry(
    slices: EncodedSlices,
    masks: Mapping[int, Logits],
    seeds: Collection[int],
    chosen: range,
    how: Propagation,
    watch: Watch,
) -> dict[int, tuple[Logits, float]]:
    """Logits and predicted IoU of the slices in `chosen` that the masks reach.

    `masks` are the marked slices that are not empty; `seeds` are all marked slices, which stop a
    walk and are never overwritten.
    """
    found: dict[int, tuple[Logits, float]] = {}
    total = len([index for index in chosen if index not in seeds])
    bridges = _bridges(masks, seeds)
    for first, last in bridges:
        for index in sorted({*range(first + 1, last)} & {*chosen}):
            watch.step(len(found), total)
            share = (index - first) / (last - first)
            found[index] = _bridge(slices, index, masks[first], masks[last], share, how)
    bridged = {(first, 1) for first, _ in bridges} | {(last, -1) for _, last in bridges}
    for start, step, last in _walks(sorted(masks), seeds, chosen):
        if (start, step) in bridged:
            continue
        before = masks[start]
        for index in range(start + step, last + step, step):
            watch.step(len(found), total)
            prediction = slices.decode(index, project(before, slices, how), multimask=False)
            logits, iou = prediction.best().logits[0].float().cpu(), float(prediction.iou[0, 0])
            if _collapses(before, logits, iou, how):
                break
            found[index] = (logits, iou)
            before = logits
    watch.step(total, total)
    return found


def _bridges(masks: Mapping[int, Logits], seeds: Collection[int]) -> list[tuple[int, int]]:
    """Marked slices with nothing marked between them whose masks overlap."""
    return [
        (first, last)
        for first, last in pairwise(sorted(seeds))
        if first in masks and last in masks and _overlap(masks[first] > 0, masks[last] > 0) > 0
    ]


def _bridge(
    slices: EncodedSlices, index: int, first: Logits, last: Logits, share: float, how: Propagation
) -> tuple[Logits, float]:
    """Logits of a slice between two marked ones; the outline itself where the model loses it."""
    outline = torch.from_numpy(between(first[0].numpy() > 0, last[0].numpy() > 0, share)).float()[
        None
    ]
    prompts = project(outline, slices, replace(how, margin=0.0))
    prediction = slices.decode(index, prompts, multimask=False)
    logits, iou = prediction.best().logits[0].float().cpu(), float(prediction.iou[0, 0])
    return (outline if _collapses(outline, logits, iou, how) else logits), iou


def project(neighbour: Logits, slices: EncodedSlices, how: Propagation) -> Prompts:
    """Prompts for the next slice from the mask of the slice before it."""
    size = slices.view.spec.size
    mask = upsample(neighbour[None], (size, size))[0] > 0
    generator = torch.Generator()  # nothing is random; the functions want one
    prompts = Prompts(torch.zeros(1, 0, 3), torch.zeros(1, 0, dtype=torch.long))
    if "points" in how.hints:
        prompts = extend(prompts, first_click(mask, generator, place="deepest"))
    if "box" in how.hints:
        prompts = extend(prompts, _widened(box_from_mask(mask), how.margin, size))
    return Prompts(prompts.points, prompts.labels, neighbour[None] if "mask" in how.hints else None)


def _widened(box: Prompts, margin: float, size: int) -> Prompts:
    """Move the sides of a box outwards by a share of its extent: objects grow between slices."""
    first, last = box.points.unbind(1)
    more = margin * (last - first)
    points = torch.stack([first - more, last + more], dim=1)
    points[..., 1:] = points[..., 1:].clamp(0, size - 1)
    return replace(box, points=points)


def _walks(
    starts: list[int], seeds: Collection[int], chosen: range
) -> Iterator[tuple[int, int, int]]:
    """Ways to go: (from a marked slice, step, last slice)."""
    for start in starts:
        for step in (1, -1):
            end = chosen[-1] if step > 0 else chosen[0]
            ahead = [seed for seed in seeds if (seed - start) * step > 0]
            if ahead:
                other = min(ahead, key=lambda seed: abs(seed - start))
                # a filled neighbour comes to meet; an odd slice in the middle goes to the lower one
                gap = abs(other - start) - 1
                share = (gap + (step > 0)) // 2 if other in starts else gap
                end = min(end * step, (start + share * step) * step) * step
            if (end - start) * step > 0 and (start + step) in chosen:
                yield start, step, end


def _collapses(before: Logits, after: Logits, iou: float, how: Propagation) -> bool:
    old, new = before > 0, after > 0
    return (
        iou < how.min_iou
        or int(new.sum()) < max(LEAST_SHARE * int(old.sum()), 1)
        or _overlap(old, new) < how.min_overlap
    )


def _overlap(one: Bool[Tensor, "1 rows cols"], two: Bool[Tensor, "1 rows cols"]) -> float:
    return float((one & two).sum() / (one | two).sum().clamp(min=1))
