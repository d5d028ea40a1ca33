"""How far the masks on an exported encoder are those on the encoder it was made from."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from segkit.backbones.base import Backbone
from segkit.data.objects import as_source
from segkit.data.phantom import phantom_picture
from segkit.data.preprocess import InputSpec, SliceView
from segkit.data.volume import Picture, Volume
from segkit.errors import CheckpointError, InputError
from segkit.metrics.overlap import overlap
from segkit.models.segmenter import Segmenter, upsample
from segkit.predictors.watch import UNWATCHED, Watch
from segkit.prompts.simulate import box_from_mask, first_click
from segkit.typing import Features, Grid, Prompts

PICTURES = 8
"""Pictures that are compared unless asked otherwise."""

_OBJECTS = 4
_SEED = 7102
_AREA = (0.002, 0.6)
"""Least and largest share of a picture that counts as an object."""
_CLICKS = 3
"""Clicks per axis where the objects of a picture are not known."""

ReadSpec = Callable[[Volume | Picture], InputSpec]


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One model input and objects on it; without objects the float model says what they are."""

    image: Float[Tensor, "3 side side"]
    objects: Bool[Tensor, "objects side side"] | None = None


@dataclass(frozen=True, slots=True)
class Agreement:
    """IoU of the masks of two encoders for the same prompts, or of their classes without prompts.

    `data` says what the pictures were. Masks that are empty in both agree.
    """

    data: str
    pictures: int
    masks: int
    mean_iou: float
    least_iou: float
    share_below_90: float

    @classmethod
    def of(cls, ious: Sequence[float], *, data: str, pictures: int) -> "Agreement":
        """Summarise."""
        found = np.array(ious)
        low = float((found < 0.9).mean())
        return cls(data, pictures, len(found), float(found.mean()), float(found.min()), low)

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "Agreement":
        """Read what `to_dict` wrote.

        Raises:
            CheckpointError: It is something else.
        """
        kinds = {"data": str, "pictures": int, "masks": int}
        names = [one.name for one in fields(cls)]
        is_right = all(type(value.get(name)) is kinds.get(name, float) for name in names)
        if not is_right or len(value) != len(names):
            raise CheckpointError(f"its agreement must hold exactly {names}, got {dict(value)}")
        return cls(**value)

    def __str__(self) -> str:
        return (
            f"mean IoU {self.mean_iou:.4f}, least {self.least_iou:.3f}, over {self.masks} masks of "
            f"{self.pictures} pictures ({self.data})"
        )


@torch.inference_mode()
def compare(
    segmenter: Segmenter,
    exported: Backbone,
    examples: Sequence[Example],
    *,
    data: str,
    watch: Watch = UNWATCHED,
) -> Agreement:
    """Compare the masks of `segmenter` with those it decodes from the features of `exported`.

    Every object is asked for by its tightest box and by one click deep inside it, every class of
    an automatic model as it is.

    Raises:
        InputError: There is nothing to compare on these pictures.
    """
    ious: list[float] = []
    for number, example in enumerate(examples):
        watch.step(number, len(examples))
        ious += _ious(segmenter, exported, example)
    watch.step(len(examples), len(examples))
    if not ious:
        raise InputError(
            f"the model finds no object on {len(examples)} pictures ({data}) to compare masks of",
            fix="compare on pictures that show what it was trained for: segkit convert --to int8 "
            "MODEL -o FILE --data PATH",
            code="nothing_to_compare",
        )
    return Agreement.of(ious, data=data, pictures=len(examples))


def phantom_examples(side: int, count: int = PICTURES) -> list[Example]:
    """Procedural pictures with up to four of their regions, the same on every run."""
    examples = []
    for number in range(count):
        drawn = phantom_picture((_SEED, number), side)
        masks = [drawn.mask(members) for members in drawn.targets()]
        masks = [mask for mask in masks if _AREA[0] <= mask.mean() <= _AREA[1]][:_OBJECTS]
        image = torch.from_numpy(drawn.image).permute(2, 0, 1) / 255
        examples.append(Example(image, torch.from_numpy(np.stack(masks)) if masks else None))
    return examples


def file_examples(
    paths: Sequence[Path], read_spec: ReadSpec, count: int = PICTURES
) -> list[Example]:
    """Pictures, or the middle slices of volumes, evenly chosen; their objects are not known.

    Raises:
        InputError: A file cannot be read as it is.
    """
    chosen = np.unique(np.linspace(0, len(paths) - 1, min(count, len(paths))).round().astype(int))
    examples = []
    for path in (paths[index] for index in chosen):
        source = as_source(path)
        view = SliceView(source, read_spec(source))
        examples.append(Example(torch.from_numpy(view.image(view.shape[0] // 2))))
    return examples


def _ious(segmenter: Segmenter, exported: Backbone, example: Example) -> list[float]:
    image = example.image[None].to(segmenter.device)
    size = (image.shape[2], image.shape[3])
    mine = segmenter.encode(image)
    theirs = segmenter.decoder.settle(exported(image, Grid((1, *size))))
    if segmenter.is_automatic:
        return _class_ious(segmenter, mine, theirs, size)
    objects = example.objects
    if objects is None:
        objects = _found(segmenter, mine, size)
    ious: list[float] = []
    for prompts, many in _asked(objects):
        asked = prompts.to(segmenter.device)
        want, got = (_masks(segmenter, one, asked, size, many=many) for one in (mine, theirs))
        ious += [overlap(b, a).iou for a, b in zip(want, got, strict=True)]
    return ious


def _asked(objects: Bool[Tensor, "objects side side"]) -> Iterator[tuple[Prompts, bool]]:
    if len(objects):
        yield box_from_mask(objects), False
        yield first_click(objects, torch.Generator().manual_seed(_SEED), place="deepest"), True


def _masks(
    segmenter: Segmenter, features: Features, prompts: Prompts, size: tuple[int, int], *, many: bool
) -> Bool[np.ndarray, "objects h w"]:
    logits = segmenter.decode(features, prompts, multimask=many).best().logits.float()
    return (upsample(logits, size)[:, 0] > 0).cpu().numpy()


def _class_ious(
    segmenter: Segmenter, mine: Features, theirs: Features, size: tuple[int, int]
) -> list[float]:
    """One IoU for each class that either encoder finds; background that agrees says nothing."""
    maps = []
    for features in (mine, theirs):
        logits = upsample(segmenter.decode(features).logits.float(), size)
        background = torch.zeros_like(logits[:, :1])
        maps.append(torch.cat([background, logits], dim=1).argmax(dim=1)[0].cpu().numpy())
    values = np.setdiff1d(np.stack(maps), [0])
    return [overlap(maps[1] == value, maps[0] == value).iou for value in values]


def _found(
    segmenter: Segmenter, features: Features, size: tuple[int, int]
) -> Bool[Tensor, "objects h w"]:
    """What the float model finds at a grid of clicks, where it is neither a speck nor all."""
    rows, cols = ((torch.arange(_CLICKS) + 0.5) * side / _CLICKS for side in size)
    places = torch.cartesian_prod(torch.zeros(1), rows, cols)
    clicks = Prompts(places[:, None], torch.ones(len(places), 1, dtype=torch.long))
    masks = torch.from_numpy(
        _masks(segmenter, features, clicks.to(segmenter.device), size, many=True)
    )
    share = masks.float().mean(dim=(1, 2))
    return masks[(share >= _AREA[0]) & (share <= _AREA[1])]
