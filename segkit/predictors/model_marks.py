"""From marks on a file's grid to prompts in the pixels of the model, slice by slice."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from segkit.data.preprocess import SliceView
from segkit.predictors.marks import Box, Mark, Point
from segkit.typing import BOX_FIRST, BOX_LAST, Prompts


@dataclass(frozen=True, slots=True)
class ModelMark:
    """One mark on one slice: (row, column) in model pixels, and the labels of `Prompts`."""

    points: tuple[tuple[float, float], ...]
    labels: tuple[int, ...]


def by_slice(view: SliceView, marks: Iterable[Mark]) -> dict[int, list[ModelMark]]:
    """Sort marks by the slice they lie on; a box lies on each slice it spans."""
    sorted_marks: dict[int, list[ModelMark]] = defaultdict(list)
    for mark in marks:
        if isinstance(mark, Point):
            depth, *position = view.points_to_model(np.array([mark.index]))[0]
            sorted_marks[round(depth)].append(ModelMark((_pair(position),), (mark.label,)))
        else:
            for index, model_mark in _box_by_slice(view, mark):
                sorted_marks[index].append(model_mark)
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


def _box_by_slice(view: SliceView, box: Box) -> Iterable[tuple[int, ModelMark]]:
    centres = np.array([box.first, np.subtract(box.last, 1)])
    edges = np.subtract([box.first, box.last], 0.5)
    depths = np.sort(np.rint(view.points_to_model(centres)[:, 0]).astype(int))
    # model corners are inclusive: half a model pixel inside the edges of the voxels
    corners = np.sort(view.points_to_model(edges)[:, 1:], axis=0) + np.array([[0.5], [-0.5]])
    mark = ModelMark((_pair(corners[0]), _pair(corners[1])), (BOX_FIRST, BOX_LAST))
    return [(index, mark) for index in range(depths[0], depths[1] + 1)]


def _pair(values: Iterable[float]) -> tuple[float, float]:
    row, column = values
    return (float(row), float(column))
