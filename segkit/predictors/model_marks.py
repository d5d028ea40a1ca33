"""From marks on a file's grid to prompts in the pixels of the model, slice by slice."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float

from segkit.data.preprocess import SliceView
from segkit.predictors.drawings import spread_out
from segkit.predictors.marks import Box, Mark, Point, Region
from segkit.typing import BOX_FIRST, BOX_LAST, Prompts

POINTS_INSIDE = 4
"""Clicks that stand for a region on one slice."""


@dataclass(frozen=True, slots=True, eq=False)
class ModelMark:
    """One mark on one slice: (row, column) in model pixels, and the labels of `Prompts`.

    `inside` are the source pixels that a region of the slice adds or removes.
    """

    points: tuple[tuple[float, float], ...]
    labels: tuple[int, ...]
    inside: Bool[np.ndarray, "rows columns"] | None = None

    @property
    def is_negative(self) -> bool:
        """Whether it only removes."""
        return not any(self.labels)


def by_slice(view: SliceView, marks: Iterable[Mark]) -> dict[int, list[ModelMark]]:
    """Sort marks by the slice they lie on; a box lies on each slice it spans."""
    sorted_marks: dict[int, list[ModelMark]] = defaultdict(list)
    for mark in marks:
        if isinstance(mark, Point):
            depth, *position = view.points_to_model(np.array([mark.index]))[0]
            sorted_marks[round(depth)].append(ModelMark((_pair(position),), (mark.label,)))
        elif isinstance(mark, Box):
            for index, model_mark in _box_by_slice(view, mark):
                sorted_marks[index].append(model_mark)
        else:
            stack = view.stack(mark.on_grid(view.source.array.shape[: len(mark.first)]))
            for index in map(int, np.flatnonzero(stack.any(axis=(1, 2)))):
                is_first = index not in sorted_marks
                sorted_marks[index].append(_region(view, mark, stack, index, is_first))
    return dict(sorted_marks)


def to_prompts(
    marks: Sequence[ModelMark], logits: Float[torch.Tensor, "1 rows cols"] | None
) -> Prompts:
    """Prompts of one object on one image."""
    points = [(0.0, *point) for mark in marks for point in mark.points]
    labels = [label for mark in marks for label in mark.labels]
    return Prompts(
        torch.tensor(points, dtype=torch.float32).reshape(1, -1, 3),
        torch.tensor(labels, dtype=torch.long).reshape(1, -1),
        None if logits is None else logits[None],
    )


def stack_to_source(
    view: SliceView, points: Float[np.ndarray, "points 3"]
) -> Float[np.ndarray, "points axes"]:
    """Indices (slice, row, column) of the stack to voxel indices of the source."""
    scale = np.array([1.0, *np.divide(view.content_size, view.shape[1:])])
    return view.model_to_source((np.asarray(points) + 0.5) * scale - 0.5)


def _box_by_slice(view: SliceView, box: Box) -> Iterable[tuple[int, ModelMark]]:
    centres = np.array([box.first, np.subtract(box.last, 1)])
    depths = np.sort(np.rint(view.points_to_model(centres)[:, 0]).astype(int))
    mark = ModelMark(_corners(view, box.first, box.last), (BOX_FIRST, BOX_LAST))
    return [(index, mark) for index in range(depths[0], depths[1] + 1)]


def _region(
    view: SliceView, region: Region, stack: Bool[np.ndarray, "..."], index: int, is_first: bool
) -> ModelMark:
    """Clicks inside a region; the first mark of a slice that adds also gets the box around it."""
    inside = stack[index]
    pixels = np.argwhere(inside)
    # the middle of the region before its rim: only pixels whose neighbours are inside too
    core = np.argwhere(_eroded(inside))
    chosen = core if len(core) else pixels
    chosen = chosen[spread_out(chosen * np.array(view.spacing_mm[1:]), POINTS_INSIDE)]
    places = np.concatenate([np.full((len(chosen), 1), index), chosen], axis=1)
    source = stack_to_source(view, places.astype(np.float64))
    points = tuple(_pair(point[1:]) for point in view.points_to_model(source))
    labels = (region.label,) * len(points)
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    if (high == low).any():  # a region across the slices is a line here, not an outline
        return ModelMark(points, labels)
    if is_first and region.label:
        corners = stack_to_source(view, np.array([[index, *low], [index, *high]], dtype=float))
        corners = np.sort(corners, axis=0)
        points = (*points, *_corners(view, corners[0], corners[1] + 1))
        labels = (*labels, BOX_FIRST, BOX_LAST)
    return ModelMark(points, labels, inside)


def _corners(
    view: SliceView, first: Sequence[float], last: Sequence[float]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Corners of a half-open voxel box in model pixels.

    Model corners are inclusive: half a model pixel inside the edges of the voxels.
    """
    edges = np.subtract([first, last], 0.5)
    corners = np.sort(view.points_to_model(edges)[:, 1:], axis=0) + np.array([[0.5], [-0.5]])
    return (_pair(corners[0]), _pair(corners[1]))


def _eroded(inside: Bool[np.ndarray, "rows columns"]) -> Bool[np.ndarray, "rows columns"]:
    padded = np.pad(inside, 1)
    near = (padded[1:-1, :-2], padded[1:-1, 2:], padded[:-2, 1:-1], padded[2:, 1:-1])
    return inside & np.logical_and.reduce(near)


def _pair(values: Iterable[float]) -> tuple[float, float]:
    row, column = values
    return (float(row), float(column))
