"""Clips as values: frames in order, labels on some or all of them, and batches of clips."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Clip:
    """One recording, or a window of it.

    `frames` are in [0, 1]; `masks` hold class or object numbers (0 background), all 0 where a frame
    is not labelled. `frame_names` say where each frame comes from, `group` which subject, and
    `spacing_mm` is (row, column) of a pixel, in pixels of the source where the file does not say.
    """

    frames: Float[Tensor, "t 3 h w"]
    masks: Int[Tensor, "t h w"]
    is_labelled: Bool[Tensor, " t"]
    name: str
    group: str
    frame_names: tuple[str, ...]
    spacing_mm: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        lengths = {
            "frames": len(self.frames),
            "masks": len(self.masks),
            "is_labelled": len(self.is_labelled),
            "frame_names": len(self.frame_names),
        }
        if len(set(lengths.values())) != 1 or not self.frame_names:
            raise ValueError(f"a clip needs as many masks and names as frames (>= 1): {lengths}")
        if self.frames.shape[-2:] != self.masks.shape[-2:]:
            shapes = tuple(self.frames.shape), tuple(self.masks.shape)
            raise ValueError(f"frames and masks must have the same size, got {shapes}")

    def __len__(self) -> int:
        return len(self.frame_names)

    def window(self, chosen: Sequence[int]) -> "Clip":
        """The frames `chosen`, in that order; a frame may occur twice."""
        index = torch.tensor(list(chosen), dtype=torch.long)
        return Clip(
            self.frames[index],
            self.masks[index],
            self.is_labelled[index],
            self.name,
            self.group,
            tuple(self.frame_names[i] for i in chosen),
            self.spacing_mm,
        )


@dataclass(frozen=True, slots=True)
class ClipBatch:
    """Clips of one size and length.

    Example:
        >>> import torch
        >>> clip = Clip(
        ...     torch.zeros(2, 3, 8, 8),
        ...     torch.zeros(2, 8, 8, dtype=torch.long),
        ...     torch.ones(2, dtype=torch.bool),
        ...     "clip_1",
        ...     "patient_1",
        ...     ("0001", "0002"),
        ... )
        >>> batch = collate_clips([clip, clip])
        >>> len(batch), tuple(batch.frames.shape)
        (2, (2, 2, 3, 8, 8))
    """

    frames: Float[Tensor, "n t 3 h w"]
    masks: Int[Tensor, "n t h w"]
    is_labelled: Bool[Tensor, "n t"]
    case_id: tuple[str, ...]
    spacing_mm: Float[Tensor, "n 2"]

    def __post_init__(self) -> None:
        counts = {field.name: len(getattr(self, field.name)) for field in fields(self)}
        if len(set(counts.values())) != 1:
            raise ValueError(f"all fields must have the same length, got {counts}")

    def __len__(self) -> int:
        return len(self.case_id)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "ClipBatch":
        """Copy to a device."""
        return ClipBatch(
            self.frames.to(device, non_blocking=non_blocking),
            self.masks.to(device, non_blocking=non_blocking),
            self.is_labelled.to(device, non_blocking=non_blocking),
            self.case_id,
            self.spacing_mm.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> "ClipBatch":
        """Copy to page-locked memory, from which copies to a GPU can overlap with work."""
        return ClipBatch(
            self.frames.pin_memory(),
            self.masks.pin_memory(),
            self.is_labelled.pin_memory(),
            self.case_id,
            self.spacing_mm.pin_memory(),
        )


def collate_clips(clips: Sequence[Clip]) -> ClipBatch:
    """Stack clips of one size and length.

    Raises:
        ValueError: There is no clip, or their lengths differ.
    """
    if not clips:
        raise ValueError("a batch needs at least one clip, got none")
    if len({len(clip) for clip in clips}) > 1:
        raise ValueError(
            f"clips of a batch must have the same length, got {[len(clip) for clip in clips]}"
        )
    return ClipBatch(
        frames=torch.stack([clip.frames for clip in clips]),
        masks=torch.stack([clip.masks for clip in clips]),
        is_labelled=torch.stack([clip.is_labelled for clip in clips]),
        case_id=tuple(clip.name for clip in clips),
        spacing_mm=torch.tensor([clip.spacing_mm for clip in clips]),
    )
