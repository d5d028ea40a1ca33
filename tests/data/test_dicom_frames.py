"""Enhanced multi-frame objects: every frame has its own place and scale."""

from pathlib import Path

import numpy as np
import pytest
from dicom_builder import (
    SLICES,
    assert_control,
    enhanced,
    expected_array,
    pixels_of,
    read_quietly,
    read_warned,
    refuse,
    save,
)
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless


@pytest.mark.parametrize(
    "order",
    [
        pytest.param(range(SLICES), id="D-13-in-order"),
        pytest.param([3, 1, 2, 0, 4, 5, 9, 8, 7, 6], id="D-13-frames-out-of-order"),
    ],
)
def test_frames_are_placed_by_their_positions(tmp_path: Path, order: list[int]) -> None:
    file = save(enhanced(order=order), tmp_path / "enhanced.dcm")
    assert_control(read_quietly(file))
    assert_control(read_quietly(tmp_path))


@pytest.mark.parametrize("case", [pytest.param(0, id="D-13-compressed")])
def test_compressed_frames(tmp_path: Path, case: int) -> None:
    header = enhanced(order=[3, 1, 2, 0, 4, 5, 9, 8, 7, 6])
    header.compress(RLELossless)
    assert_control(read_quietly(save(header, tmp_path / "enhanced.dcm")))


@pytest.mark.parametrize("case", [pytest.param(0, id="D-13-slope-per-frame")])
def test_slope_of_each_frame(tmp_path: Path, case: int) -> None:
    header = enhanced()
    for n, group in enumerate(header.PerFrameFunctionalGroupsSequence):
        group.PixelValueTransformationSequence[0].RescaleSlope = n + 1
    volume = read_quietly(save(header, tmp_path / "enhanced.dcm"))
    expected = [pixels_of(k).astype(int) * (k + 1) - 1024 for k in range(SLICES)]
    np.testing.assert_array_equal(volume.array, expected)


@pytest.mark.parametrize("case", [pytest.param(0, id="D-13-time-points")])
def test_frames_of_several_times(tmp_path: Path, case: int) -> None:
    header = enhanced(order=[*range(SLICES), *range(SLICES)], count=2 * SLICES)
    late = np.stack([pixels_of(k) // 2 for k in range(SLICES)])
    header.PixelData = header.PixelData[: 128 * SLICES] + late.astype(np.uint16).tobytes()
    for n, group in enumerate(header.PerFrameFunctionalGroupsSequence):
        content = Dataset()
        content.TemporalPositionIndex = n // SLICES + 1
        group.FrameContentSequence = [content]
    file = save(header, tmp_path / "enhanced.dcm")
    assert refuse(file, "2 images at each position").option == "--frame"
    volume = read_warned(file, "10 images of other time points", frame=1)
    np.testing.assert_array_equal(volume.array, late.astype(int) - 1024)


@pytest.mark.parametrize("case", [pytest.param(0, id="D-13-missing-frame")])
def test_a_missing_frame_is_a_gap(tmp_path: Path, case: int) -> None:
    kept = [0, 1, 2, 3, 5, 6, 7, 8, 9]
    file = save(enhanced(len(kept), order=kept), tmp_path / "enhanced.dcm")
    assert refuse(file, "misses 1 slice").option == "--fill-gap"
    volume = read_warned(file, "1 missing slice", fill_gap=True)
    np.testing.assert_array_equal(volume.array[kept], expected_array(kept))


@pytest.mark.parametrize("case", [pytest.param(0, id="D-13-no-positions")])
def test_frames_without_positions_are_refused(tmp_path: Path, case: int) -> None:
    header = enhanced()
    for group in header.PerFrameFunctionalGroupsSequence:
        del group.PlanePositionSequence
    file = save(header, tmp_path / "enhanced.dcm")
    refuse(file, "several frames, but no position for each")
    del header.PerFrameFunctionalGroupsSequence
    refuse(save(header, tmp_path / "cine.dcm"), "several frames, but no position for each")


@pytest.mark.parametrize("case", [pytest.param(0, id="D-13-group-count")])
def test_frame_count_must_agree(tmp_path: Path, case: int) -> None:
    header = enhanced()
    header.PerFrameFunctionalGroupsSequence = header.PerFrameFunctionalGroupsSequence[:-1]
    file = save(header, tmp_path / "enhanced.dcm")
    refuse(file, "declares 10 frames but describes 9")
