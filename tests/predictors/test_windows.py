"""Streaming windows against MONAI's inferer and against interpolation of the whole."""

from collections.abc import Callable
from pathlib import Path

import monai.inferers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.data.readers import load
from segkit.predictors.watch import CancelledError, Watch
from segkit.predictors.windows import SlidingWindow, mirrored, resampled

CASES = [
    ((40, 33, 20), (16, 16, 16), 0.5),
    ((20, 33, 40), (16, 16, 16), 0.25),  # swept along i
    ((9, 33, 20), (16, 8, 32), 0.5),  # shorter than the window on two axes
    ((5, 6, 7), (8, 8, 8), 0.5),
    ((20, 40, 12), (10, 20, 8), 0.75),
    ((16, 16, 16), (16, 16, 16), 0.5),
    ((17, 1, 16), (16, 4, 8), 0.0),
    ((24, 18, 18), (16, 16, 16), 0.9),
]


def a_network(classes: int = 5) -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv3d(1, classes, 3, padding=1).requires_grad_(False)


def of_monai(
    volume: Tensor, patch: tuple[int, int, int], overlap: float, mode: str, network: nn.Module
) -> Tensor:
    inferer = monai.inferers.SlidingWindowInferer(patch, 2, overlap, mode=mode)
    scores = inferer(volume[None], network)
    assert isinstance(scores, Tensor)
    return scores[0]


@pytest.mark.parametrize("mode", ["gaussian", "constant"])
@pytest.mark.parametrize(("shape", "patch", "overlap"), CASES)
def test_labels_are_those_of_monai(
    shape: tuple[int, int, int], patch: tuple[int, int, int], overlap: float, mode: str
) -> None:
    network, volume = a_network(), torch.rand(1, *shape)
    scores = of_monai(volume, patch, overlap, mode, network)
    found = SlidingWindow(patch, overlap, mode == "gaussian", batch=2).labels(volume, network)
    best, expected = scores.max(dim=0)
    if shape[0] == max(shape):
        assert torch.equal(found.long(), expected)
    # along another axis the terms of a sum come in another order: a tie may break the other way
    chosen = scores.gather(0, found.long()[None])[0]
    torch.testing.assert_close(chosen, best, rtol=0, atol=1e-6)
    assert (found.long() != expected).float().mean() < 1e-4


def test_labels_of_a_real_volume_are_those_of_monai(shared_data: Callable[[str], Path]) -> None:
    files = sorted((shared_data("3d/Task04_Hippocampus") / "imagesTr").glob("*.nii.gz"))
    array = load(files[0]).array.astype(np.float32)
    volume = torch.from_numpy(array / array.max())[None]
    network = a_network(32)
    expected = of_monai(volume, (16, 24, 16), 0.5, "gaussian", network).argmax(dim=0)
    found = SlidingWindow((16, 24, 16), 0.5).labels(volume, network)
    assert len(found.unique()) > 5
    assert torch.equal(found.long(), expected)


@pytest.mark.parametrize(("shape", "patch", "overlap"), CASES)
def test_planes_are_those_of_the_interpolated_whole(
    shape: tuple[int, int, int], patch: tuple[int, int, int], overlap: float
) -> None:
    volume, network = torch.rand(1, *shape), a_network()
    size = (round(shape[0] * 1.7), max(round(shape[1] * 0.6), 1), shape[2] + 3)
    scores = of_monai(volume, patch, overlap, "gaussian", network)
    expected = F.interpolate(scores[None], size, mode="trilinear", align_corners=False)[0]
    found = torch.full_like(expected, torch.nan)
    slabs = SlidingWindow(patch, overlap).slabs(
        lambda box: volume[(slice(None), *box)], shape, network
    )
    for axis, index, plane in resampled(slabs, shape, size):
        found.select(1 + axis, index).copy_(plane)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_memory_does_not_grow_with_the_length_of_the_volume() -> None:
    """Count elements instead of bytes of the process: no slab is longer than a window."""
    longest = 0
    for slab in SlidingWindow((8, 8, 8), 0.5).slabs(
        lambda box: torch.ones(1, *(side.stop - side.start for side in box)),
        (400, 8, 8),
        lambda patches: patches.repeat(1, 3, 1, 1, 1),
    ):
        longest = max(longest, slab.scores.untyped_storage().nbytes())
    assert longest == 3 * 8**3 * 4


def test_reads_only_what_a_row_of_windows_covers() -> None:
    boxes: list[tuple[int, int]] = []

    def read(box: tuple[slice, slice, slice]) -> Tensor:
        boxes.append((box[0].start, box[0].stop))
        return torch.ones(1, *(side.stop - side.start for side in box))

    list(SlidingWindow((8, 8, 8), 0.5).slabs(read, (20, 9, 9), lambda patches: patches))
    assert boxes == [(0, 8), (4, 12), (8, 16), (12, 20)]


def test_mirroring_makes_the_result_equivariant() -> None:
    network = mirrored(a_network())
    patches = torch.rand(2, 1, 6, 5, 4)
    for axis in (2, 3, 4):
        flipped = network(patches.flip(axis)).flip(axis)
        torch.testing.assert_close(flipped, network(patches))
    assert not torch.allclose(a_network()(patches.flip(2)).flip(2), a_network()(patches))


def test_cancelled_between_two_windows() -> None:
    seen: list[tuple[int, int]] = []
    watch = Watch(lambda done, total: seen.append((done, total)), lambda: len(seen) >= 2)
    slabs = SlidingWindow((8, 8, 8), 0.5).slabs(
        lambda box: torch.ones(1, *(side.stop - side.start for side in box)),
        (8, 8, 24),
        lambda patches: patches,
        watch,
    )
    with pytest.raises(CancelledError, match="stopped after 3 of 5 steps"):
        list(slabs)
    assert seen == [(1, 5), (2, 5)]


@pytest.mark.parametrize(
    ("patch", "overlap", "batch"), [((0, 8, 8), 0.5, 1), ((8, 8, 8), 1.0, 1), ((8, 8, 8), 0.5, 0)]
)
def test_wrong_settings_are_refused(
    patch: tuple[int, int, int], overlap: float, batch: int
) -> None:
    with pytest.raises(ValueError, match=r"sides and batch must be >= 1 and overlap in \[0, 1\)"):
        SlidingWindow(patch, overlap, batch=batch)
