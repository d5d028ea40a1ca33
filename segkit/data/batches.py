"""The batch that leaves the data module: a value, not a dictionary."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sample:
    """One slice; `mask` holds class indices, or instance ids where asked for."""

    image: Float[Tensor, "3 h w"]
    mask: Int[Tensor, "h w"]
    case_id: str
    slice_index: int
    spacing_mm: tuple[float, float]


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Slices of one or several cases.

    `image` is in [0, 1]. `mask` holds class indices (0 background), or instance ids where asked
    for. `slice_index` counts along the slice axis of the case. `spacing_mm` is (row, column) of a
    model pixel, in pixels of the source where the file does not say.

    Example:
        >>> import torch
        >>> batch = ImageBatch(
        ...     torch.zeros(1, 3, 8, 8),
        ...     torch.zeros(1, 8, 8, dtype=torch.long),
        ...     ("case_1",),
        ...     torch.tensor([4]),
        ...     torch.ones(1, 2),
        ... )
        >>> len(batch.to("cpu"))
        1
    """

    image: Float[Tensor, "n 3 h w"]
    mask: Int[Tensor, "n h w"]
    case_id: tuple[str, ...]
    slice_index: Int[Tensor, " n"]
    spacing_mm: Float[Tensor, "n 2"]

    def __post_init__(self) -> None:
        counts = {name: len(getattr(self, name)) for name in self.__slots__}
        if len(set(counts.values())) != 1:
            raise ValueError(f"all fields must have the same length, got {counts}")
        if self.image.shape[-2:] != self.mask.shape[-2:]:
            shapes = tuple(self.image.shape), tuple(self.mask.shape)
            raise ValueError(f"image and mask must have the same size, got {shapes}")

    def __len__(self) -> int:
        return len(self.case_id)

    @property
    def grid(self) -> None:
        """Nothing: every image stands alone."""
        return None

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "ImageBatch":
        """Copy to a device."""
        return ImageBatch(
            self.image.to(device, non_blocking=non_blocking),
            self.mask.to(device, non_blocking=non_blocking),
            self.case_id,
            self.slice_index.to(device, non_blocking=non_blocking),
            self.spacing_mm.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> "ImageBatch":
        """Copy to page-locked memory, from which copies to a GPU can overlap with work."""
        return ImageBatch(
            self.image.pin_memory(),
            self.mask.pin_memory(),
            self.case_id,
            self.slice_index.pin_memory(),
            self.spacing_mm.pin_memory(),
        )


def collate(samples: Sequence[Sample]) -> ImageBatch:
    """Stack samples of one size.

    Raises:
        ValueError: There is no sample.
    """
    if not samples:
        raise ValueError("a batch needs at least one sample, got none")
    return ImageBatch(
        image=torch.stack([sample.image for sample in samples]),
        mask=torch.stack([sample.mask for sample in samples]),
        case_id=tuple(sample.case_id for sample in samples),
        slice_index=torch.tensor([sample.slice_index for sample in samples]),
        spacing_mm=torch.tensor([sample.spacing_mm for sample in samples]),
    )
