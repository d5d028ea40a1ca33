"""From the files of one case to its model-ready slices."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Shaped

from segkit.data.block_view import BlockView
from segkit.data.cases import Case
from segkit.data.label_options import LabelOptions
from segkit.data.labels import read_labels
from segkit.data.options import ReadOptions
from segkit.data.preprocess import InputSpec, SliceView
from segkit.data.readers import load
from segkit.data.stacks import StackFacts, StackSlice, quantise
from segkit.data.volume import Picture, Volume
from segkit.errors import InputError


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a case becomes slices; all of it is part of the key of the cache.

    `labels` are names by voxel value, 1..K, without background; they are not looked at where
    `label_options` ask for instances. `channel` picks the image of a case that has several. With
    `keep_unlabelled` a case without a label gets an empty one.
    """

    model_input: InputSpec
    labels: tuple[tuple[int, str], ...] = ((1, "object"),)
    channel: int | None = None
    label_options: LabelOptions = field(default_factory=LabelOptions)
    read_options: ReadOptions = field(default_factory=ReadOptions)
    keep_unlabelled: bool = False

    def __post_init__(self) -> None:
        if self.label_options.ignore is not None:
            raise InputError(
                f"an ignore value ({self.label_options.ignore}) is declared",
                fix="every voxel is background or one class in training: map the value with "
                "mapping={value: 0}, or correct the labels",
                code="labels",
            )

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON; names of labels do not change slices and are left out."""
        return {
            "input": self.model_input.to_dict(),
            "values": [value for value, _ in self.labels],
            "channel": self.channel,
            "label_options": repr(self.label_options),
            "read_options": repr(self.read_options),
        }

    @property
    def stored_input(self) -> InputSpec:
        """Neighbouring slices are stored once each and put together when they are read."""
        if self.model_input.channels == "neighbours":
            return replace(self.model_input, channels="repeat")
        return self.model_input


def prepare(case: Case, recipe: Recipe) -> tuple[StackFacts, Iterator[StackSlice]]:
    """Read a case; the slices follow one at a time.

    Raises:
        InputError: A file cannot be used; the label is missing or does not fit.
    """
    source = _read_image(case, recipe)
    labels = _read_label(case, source, recipe)
    spec = recipe.stored_input
    if spec.is_volumetric:
        return _prepare_blocks(source, labels, spec)
    view = SliceView(source, spec)
    facts = StackFacts(
        size=spec.size,
        content=view.content_size,
        channels=1 if spec.channels == "repeat" else 3,
        spacing_mm=view.model_spacing_mm,
        image_dtype="uint8" if source.array.dtype == np.uint8 else "uint16",
        label_dtype="uint8" if labels.max(initial=0) < 256 else "uint16",
    )
    return facts, _slices(view, labels, facts)


def _slices(
    view: SliceView, labels: Shaped[np.ndarray, "..."], facts: StackFacts
) -> Iterator[StackSlice]:
    height, width = facts.content
    for index in range(view.shape[0]):
        image = view.image(index)[: facts.channels, :height, :width]
        label = view.label(labels, index)[:height, :width]
        yield StackSlice(quantise(image, facts.image_dtype), label.astype(facts.label_dtype))


def _prepare_blocks(
    source: Volume | Picture, labels: Shaped[np.ndarray, "..."], spec: InputSpec
) -> tuple[StackFacts, Iterator[StackSlice]]:
    """Bring a volume to the orientation and spacing of a volumetric model, slice by slice."""
    if not isinstance(source, Volume):
        raise InputError(
            "is a picture, but the model sees blocks of volumes",
            path=source.path,
            fix="leave the patch out of the input",
        )
    view = BlockView(source, spec)
    height, width = view.shape[1:]
    facts = StackFacts(
        size=max(height, width),
        content=(height, width),
        channels=1 if spec.channels == "repeat" else 3,
        spacing_mm=view.spacing_mm,
        image_dtype="uint8" if source.array.dtype == np.uint8 else "uint16",
        label_dtype="uint8" if labels.max(initial=0) < 256 else "uint16",
    )
    return facts, _block_slices(view, labels, facts)


def _block_slices(
    view: BlockView, labels: Shaped[np.ndarray, "..."], facts: StackFacts
) -> Iterator[StackSlice]:
    depth, height, width = view.shape
    # nearest voxel of the file to each model voxel
    near = [
        ((np.arange(count) + 0.5) / scale).astype(int)
        for count, scale in zip(view.shape, view.scale, strict=True)
    ]
    oriented = view.stack(labels)
    for k in range(depth):
        image = view.block((k, 0, 0), (k + 1, height, width), (1, height, width))[:, 0].numpy()
        label = oriented[near[0][k]][np.ix_(near[1], near[2])]
        yield StackSlice(quantise(image, facts.image_dtype), label.astype(facts.label_dtype))


def _read_image(case: Case, recipe: Recipe) -> Volume | Picture:
    if len(case.image) == 1:
        frame = recipe.read_options.frame if recipe.channel is None else recipe.channel
        return load(case.image[0], recipe.read_options, frame=frame)
    if recipe.channel is None or not 0 <= recipe.channel < len(case.image):
        raise InputError(
            f"case {case.id!r} has {len(case.image)} images, got channel={recipe.channel}",
            path=case.image[0].parent,
            fix=f"choose one with channel=0 to {len(case.image) - 1}",
            code="channel",
            option="channel",
        )
    return load(case.image[recipe.channel], recipe.read_options)


def _read_label(case: Case, source: Volume | Picture, recipe: Recipe) -> Shaped[np.ndarray, "..."]:
    if case.label is None:
        if recipe.keep_unlabelled:
            shape = source.array.shape
            # the channels of a picture come last
            return np.zeros(shape[:2] if isinstance(source, Picture) else shape, np.uint8)
        raise InputError(
            f"case {case.id!r} has no label",
            path=case.image[0],
            fix="training and validation need labels; add one or leave the case out",
            code="unpaired",
        )
    table = None if recipe.label_options.instances else dict(recipe.labels)
    return read_labels(case.label, source, table, recipe.label_options)
