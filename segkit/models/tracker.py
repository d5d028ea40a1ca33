"""Segment objects through a sequence of frames: a segmenter with a memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from segkit.decoders.sam2_mask import Sam2MaskDecoder, Sam2Masks, without_memory
from segkit.errors import InputError
from segkit.memory.bank import MemoryBank
from segkit.memory.modules import Sam2Memory
from segkit.models.segmenter import Segmenter, upsample
from segkit.typing import PADDING, Features, Grid, Image, Prompts

NO_OBJECT = -1024.0
"""Mask logit of an object that is not visible, as in the released models."""
_GIVEN = 10.0  # logit of the inside of a mask that the user gives, and score of its object
_MOST_CERTAIN = 32.0  # earlier logits are cut there before they are refined
_MULTIMASK_POINTS = 1  # more points leave no doubt about what is meant


@dataclass(frozen=True, slots=True, eq=False)
class ObjectPrompt:
    """Marks of one object on one frame, or its whole `mask`, in pixels of the model input.

    Points and labels as in `segkit.Prompts`. `previous` are the logits that the marks refine.
    `sees_memory`: whether what is known from other frames takes part; a frame that starts an object
    is decoded without.
    """

    points: Float[Tensor, "points 3"] | None = None
    labels: Int[Tensor, " points"] | None = None
    mask: Bool[Tensor, "height width"] | None = None
    previous: Float[Tensor, "1 rows cols"] | None = None
    sees_memory: bool = True

    def __post_init__(self) -> None:
        has_points = self.labels is not None and len(self.labels) > 0
        if has_points == (self.mask is not None):
            raise InputError(
                "an object needs points (a box is two of them) or a mask, not both and not neither",
                fix="leave an object without new marks out: it is tracked",
                code="no_prompt",
            )


@dataclass(frozen=True, slots=True, eq=False)
class TrackPrediction:
    """Masks of objects `ids` on one frame, at the decoder's resolution.

    `score` > 0: the object is visible; where it is not, `logits` are `NO_OBJECT` and `raw` what the
    decoder drew all the same, which is what training looks at. `pointers` are what the memory keeps
    of the objects beside their maps.
    """

    ids: tuple[int, ...]
    logits: Float[Tensor, "objects 1 rows cols"]
    iou: Float[Tensor, "objects 1"]
    score: Float[Tensor, "objects 1"]
    raw: Float[Tensor, "objects 1 rows cols"]
    pointers: Float[Tensor, "objects dim"]

    def __getitem__(self, ids: Sequence[int]) -> "TrackPrediction":
        """Choose and order objects by id."""
        rows = [self.ids.index(id_) for id_ in ids]
        return TrackPrediction(
            tuple(ids), *(getattr(self, name)[rows] for name in TrackPrediction.__slots__[1:])
        )

    @classmethod
    def join(cls, parts: Sequence["TrackPrediction"]) -> "TrackPrediction":
        """Put predictions of different objects in one."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            tuple(id_ for part in parts for id_ in part.ids),
            *(torch.cat([getattr(part, name) for part in parts]) for name in cls.__slots__[1:]),
        )


class Tracker(nn.Module):
    """A promptable segmenter that carries all objects through a clip, in one batch.

    Source: "SAM 2" (Ravi et al., 2024). The state is a value: `step` takes a `MemoryBank` and
    returns the next; its size does not grow with the clip. Differences from the released predictor:
    a correction of a tracked frame makes it a prompted one (the released default drops it at the
    next pass), and objects do not wait for each other.

    Example:
        >>> from segkit.models import build
        >>> tracker = build.sam2_test.tracker().eval()
        >>> click = ObjectPrompt(torch.tensor([[0.0, 20.0, 30.0]]), torch.tensor([1]))
        >>> bank = MemoryBank()
        >>> for prompts in ({7: click}, None, None):
        ...     features = tracker.encode(torch.rand(1, 3, 64, 64))
        ...     prediction, bank = tracker.step(features, prompts, bank)
        >>> prediction.ids, prediction.logits.shape, bank.frame
        ((7,), torch.Size([1, 1, 16, 16]), 3)
    """

    def __init__(self, segmenter: Segmenter, memory: Sam2Memory) -> None:
        super().__init__()
        if not isinstance(segmenter.decoder, Sam2MaskDecoder):
            raise ValueError(
                f"a tracker needs the mask decoder of SAM 2, got {type(segmenter.decoder).__name__}"
            )
        if memory.sizes.dim != segmenter.spec.out_dim:
            raise ValueError(
                f"features have {segmenter.spec.out_dim} channels, the memory expects "
                f"{memory.sizes.dim}"
            )
        self.segmenter, self.memory = segmenter, memory

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return self.segmenter.device

    @property
    def decoder(self) -> Sam2MaskDecoder:
        """Mask decoder of the segmenter."""
        assert isinstance(self.segmenter.decoder, Sam2MaskDecoder)
        return self.segmenter.decoder

    def encode(self, image: Image, grid: Grid | None = None) -> Features:
        """Encode frames with values in [0, 1]; frames of several clips form a batch."""
        return self.segmenter.encode(image, grid)

    def step(
        self,
        features: Features,
        prompts: Prompts | Mapping[int, ObjectPrompt] | None,
        bank: MemoryBank,
    ) -> tuple[TrackPrediction, MemoryBank]:
        """Segment the objects of `bank` on its current frame, and move on to the next.

        Objects in `prompts` are decoded from their marks and added if they are new; the others are
        tracked. `Prompts` mark object b = 0, 1, ... in row b. Objects that have no memory yet get
        an empty mask.

        Raises:
            InputError: There is no object, neither in the bank nor in the prompts.
        """
        prompts, bank = _by_object(prompts, bank, len(features.levels[-1]))
        parts: list[TrackPrediction] = []
        if prompts:
            prediction, bank = self.interact(features, prompts, bank)
            parts.append(prediction)
        if rest := [id_ for id_ in bank.ids if id_ not in prompts]:
            prediction, bank = self.track(features, bank, rest)
            parts.append(prediction)
        if not parts:
            raise InputError(
                "there is no object to track",
                fix="mark one with a point, a box or a mask first",
                code="no_prompt",
            )
        return TrackPrediction.join(parts)[bank.ids], bank.at(
            bank.frame + bank.direction, bank.direction
        )

    def interact(
        self, features: Features, prompts: Mapping[int, ObjectPrompt], bank: MemoryBank
    ) -> tuple[TrackPrediction, MemoryBank]:
        """Decode the marked objects on the current frame and make it a prompted one for them.

        Other objects, and the place in the clip, stay as they are.
        """
        bank = bank.add(prompts)
        parts: list[TrackPrediction] = []
        for ids in _alike(prompts):
            chosen = [prompts[id_] for id_ in ids]
            if chosen[0].mask is not None:
                found = self._from_masks(features, ids, chosen, bank)
            else:
                found = self._from_marks(features, ids, chosen, bank)
            bank = self._remember(features, found, bank, is_prompted=True)
            parts.append(found)
        return TrackPrediction.join(parts)[tuple(prompts)], bank

    def track(
        self, features: Features, bank: MemoryBank, ids: Sequence[int] | None = None
    ) -> tuple[TrackPrediction, MemoryBank]:
        """Find objects on the current frame from memory alone; the place in the clip stays."""
        ids = bank.ids if ids is None else ids
        known = tuple(id_ for id_ in ids if bank.has_memory(id_))
        parts = []
        if known:
            index = self._images(known, bank)
            coarse = self._attend(features, known, bank, index)
            nothing = Prompts(
                coarse.new_zeros(len(known), 1, 3),
                torch.full((len(known), 1), PADDING, device=coarse.device),
            )
            found = self._decode(features, known, coarse, nothing, index, multimask=True)
            bank = self._remember(features, found, bank, is_prompted=False)
            parts.append(found)
        if unknown := tuple(id_ for id_ in ids if id_ not in known):
            parts.append(self._nothing(unknown, features))
        return TrackPrediction.join(parts)[ids], bank

    def memorise(
        self, features: Features, masks: Float[Tensor, "objects 1 height width"]
    ) -> Float[Tensor, "objects cells memory"]:
        """Maps to remember of known masks in [0, 1] on one image, as when they were tracked."""
        index = torch.zeros(len(masks), dtype=torch.long, device=self.device)
        is_there = masks.flatten(1).any(dim=1, keepdim=True)
        return self.memory.encode(features.levels[-1], masks, is_there, index)

    def _from_marks(
        self,
        features: Features,
        ids: Sequence[int],
        prompts: Sequence[ObjectPrompt],
        bank: MemoryBank,
    ) -> TrackPrediction:
        index = self._images(ids, bank)
        if prompts[0].sees_memory and all(map(bank.has_memory, ids)):
            coarse = self._attend(features, ids, bank, index)
        else:
            unmarked = without_memory(features, self.decoder.module.no_mem_embed)
            coarse = unmarked.levels[-1][index]
        marks = Prompts(
            torch.stack([_need(one.points) for one in prompts]).to(coarse.device),
            torch.stack([_need(one.labels) for one in prompts]).to(coarse.device),
            None
            if prompts[0].previous is None
            else torch.stack([_need(one.previous) for one in prompts])
            .to(coarse)
            .clamp(-_MOST_CERTAIN, _MOST_CERTAIN),
        )
        is_ambiguous = marks.labels.shape[1] <= _MULTIMASK_POINTS
        return self._decode(features, ids, coarse, marks, index, multimask=is_ambiguous)

    def _from_masks(
        self,
        features: Features,
        ids: Sequence[int],
        prompts: Sequence[ObjectPrompt],
        bank: MemoryBank,
    ) -> TrackPrediction:
        """Take masks as they are; the decoder sees them only to make pointers."""
        index = self._images(ids, bank)
        coarse = features.levels[-1][index]
        masks = torch.stack([_need(one.mask) for one in prompts])[:, None].to(coarse)
        if tuple(masks.shape[2:]) != features.grid.size:
            raise InputError(
                f"mask prompts must have the size {features.grid.size} of the model input, got "
                f"{tuple(masks.shape[2:])}"
            )
        marks = Prompts(
            coarse.new_zeros(len(ids), 1, 3),
            torch.full((len(ids), 1), PADDING, device=coarse.device),
            self.memory.mask_downsample(masks),
        )
        found = self._decode(features, ids, coarse, marks, index, multimask=False)
        is_there = masks.flatten(1).any(dim=1, keepdim=True)
        size = tuple(side // 4 for side in features.grid.size)
        logits = F.interpolate(
            (2 * masks - 1) * _GIVEN,
            size=size,
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
        score = (2 * is_there.to(masks) - 1) * _GIVEN
        pointers = torch.where(is_there, found.pointers, self.memory.no_obj_ptr)
        return TrackPrediction(tuple(ids), logits, torch.ones_like(score), score, logits, pointers)

    def _decode(
        self,
        features: Features,
        ids: Sequence[int],
        coarse: Float[Tensor, "objects dim rows cols"],
        prompts: Prompts,
        index: Int[Tensor, " objects"],
        *,
        multimask: bool,
    ) -> TrackPrediction:
        """Run the mask decoder on what objects see of their images."""
        tokens = self.segmenter.prompt_encoder(prompts, features.grid.size)
        finer = features.levels[:-1]
        if len(features.levels[-1]) > 1:
            finer = tuple(level[index] for level in finer)
        every = self.decoder.every_mask(Features((*finer, coarse), features.grid), tokens)
        chosen: Sam2Masks = self.decoder.choose(every, multimask=multimask)
        return self._predicted(ids, chosen.best() if multimask else chosen)

    def _predicted(self, ids: Sequence[int], chosen: Sam2Masks) -> TrackPrediction:
        """Leave nothing to see, and the pointer at nothing, of objects that are not visible."""
        is_visible = chosen.score > 0
        raw = chosen.logits.float()
        logits = torch.where(is_visible[..., None, None], raw, NO_OBJECT)
        pointers = self.memory.pointer(chosen.tokens[:, 0], is_visible)
        return TrackPrediction(tuple(ids), logits, chosen.iou, chosen.score, raw, pointers)

    def _attend(
        self, features: Features, ids: Sequence[int], bank: MemoryBank, index: Tensor
    ) -> Float[Tensor, "objects dim rows cols"]:
        return self.memory.attend(features.levels[-1], bank.recollect(ids), index)

    def _remember(
        self, features: Features, found: TrackPrediction, bank: MemoryBank, *, is_prompted: bool
    ) -> MemoryBank:
        """Encode masks; what a person has marked counts as certain."""
        masks = upsample(found.logits, features.grid.size)
        masks = (masks > 0).to(masks) if is_prompted and not self.training else masks.sigmoid()
        index = self._images(found.ids, bank)
        maps = self.memory.encode(features.levels[-1], masks, found.score > 0, index)
        return bank.remember(found.ids, maps, found.pointers, is_prompted=is_prompted)

    def _nothing(self, ids: tuple[int, ...], features: Features) -> TrackPrediction:
        """Empty masks of objects that nothing is known of."""
        coarse = features.levels[-1]
        rows, cols = (side // 4 for side in features.grid.size)
        logits = coarse.new_full((len(ids), 1, rows, cols), NO_OBJECT)
        score = coarse.new_full((len(ids), 1), -_GIVEN)
        pointers = self.memory.no_obj_ptr.expand(len(ids), -1)
        return TrackPrediction(ids, logits, torch.zeros_like(score), score, logits, pointers)

    def _images(self, ids: Sequence[int], bank: MemoryBank) -> Int[Tensor, " objects"]:
        places = {one.id: one.image for one in bank.objects}
        return torch.tensor([places[id_] for id_ in ids], device=self.device)


def _by_object(
    prompts: Prompts | Mapping[int, ObjectPrompt] | None, bank: MemoryBank, images: int
) -> tuple[Mapping[int, ObjectPrompt], MemoryBank]:
    """Bring prompts in the form of one entry per object, and add new objects to the bank."""
    if prompts is None:
        return {}, bank
    if not isinstance(prompts, Prompts):
        return prompts, bank.add(prompts)
    rows = range(len(prompts.labels))
    places = [row if images > 1 else 0 for row in rows]
    if prompts.image_index is not None:
        places = prompts.image_index.tolist()
    bank = bank.add(rows, places)
    marks: dict[int, ObjectPrompt] = {}
    for row in rows:
        counts = prompts.labels[row] != PADDING
        if counts.any():
            previous = None if prompts.masks is None else prompts.masks[row]
            points, labels = prompts.points[row][counts], prompts.labels[row][counts]
            marks[row] = ObjectPrompt(points, labels, previous=previous)
    return marks, bank


def _alike(prompts: Mapping[int, ObjectPrompt]) -> list[tuple[int, ...]]:
    """Group objects whose prompts fit in one batch without padding, which changes masks."""
    groups: dict[object, list[int]] = {}
    for id_, one in prompts.items():
        points = 0 if one.labels is None else len(one.labels)
        kind = (points, one.mask is None, one.previous is None, one.sees_memory)
        groups.setdefault(kind, []).append(id_)
    return [tuple(ids) for ids in groups.values()]


def _need(value: Tensor | None) -> Tensor:
    assert value is not None
    return value
