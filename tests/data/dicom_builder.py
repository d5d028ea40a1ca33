"""Synthetic DICOM series: 10 slices of 8 x 8, 0.8 mm pixels, 3 mm apart, intercept -1024."""

import io
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

from segkit.data.dicom import read_series
from segkit.data.options import ReadOptions
from segkit.data.volume import Volume
from segkit.errors import DataWarning, InputError

SLICES, SIDE, SPACING, STEP = 10, 8, 0.8, 3.0
Edit = Callable[[int, FileDataset], None]


def pixels_of(k: int, side: int = SIDE) -> np.ndarray:
    """Stored values 0..4095 of slice `k`, different for each slice."""
    return np.random.default_rng(k).integers(0, 4096, (side, side)).astype(np.uint16)


def make_slice(k: int, series: str, study: str = "1.2.3.4") -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    header.SOPClassUID, header.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    header.StudyInstanceUID, header.SeriesInstanceUID = study, series
    header.FrameOfReferenceUID = "1.2.3.5"
    header.PatientID, header.PatientName, header.Modality = "CANARY-ID", "CANARY^NAME", "CT"
    header.PatientBirthDate, header.PatientSex, header.StudyID = "19000101", "O", "CANARY-STUDY"
    header.StudyDate, header.StudyTime, header.AccessionNumber = "20200101", "1200", "CANARY-ACC"
    header.InstanceNumber = k + 1
    header.ImagePositionPatient = [10.0, 20.0, 30.0 + STEP * k]
    header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    header.PixelSpacing = [SPACING, SPACING]
    header.SliceThickness = STEP
    header.RescaleSlope, header.RescaleIntercept = 1, -1024
    header.Rows = header.Columns = SIDE
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 12, 11
    header.PixelRepresentation, header.SamplesPerPixel = 0, 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.PixelData = pixels_of(k).tobytes()
    return header


def oblique(k: int, header: FileDataset) -> None:
    """Turn a slice about two axes, and make its rows and columns of different width."""
    along = np.array([0.8, 0.6 * np.cos(0.3), 0.6 * np.sin(0.3)])
    down = np.cross([0, -np.sin(0.3), np.cos(0.3)], along)
    header.ImageOrientationPatient = [f"{one:.9f}" for one in (*along, *down)]
    start = np.array([10.0, 20.0, 30.0]) + STEP * k * np.cross(along, down)
    header.ImagePositionPatient = [f"{one:.9f}" for one in start]
    header.PixelSpacing = [1.1, 0.7]


def save(header: Dataset, path: Path, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    header.save_as(path, enforce_file_format=True, **options)
    return path


def write_series(
    folder: Path,
    edit: Edit | None = None,
    *,
    slices: Sequence[int] = range(SLICES),
    series: str = "1.2.3.6",
    prefix: str = "slice",
) -> Path:
    """Write slices; `edit` changes each header in place before it is saved."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in slices:
        file = folder / f"{prefix}{k:03d}.dcm"
        if edit is None:
            file.write_bytes(plain_slice(k, series))
            continue
        header = make_slice(k, series)
        edit(k, header)
        save(header, file)
    return folder


@lru_cache(maxsize=256)
def plain_slice(k: int, series: str) -> bytes:
    """File content of an unedited slice."""
    content = io.BytesIO()
    make_slice(k, series).save_as(content, enforce_file_format=True)
    return content.getvalue()


def expected_array(slices: Sequence[int] = range(SLICES)) -> np.ndarray:
    return np.stack([pixels_of(k).astype(np.int16) - 1024 for k in slices])


def expected_affine() -> np.ndarray:
    affine = np.diag([-SPACING, -SPACING, STEP, 1.0])
    affine[:3, 3] = -10.0, -20.0, 30.0
    return affine


def enhanced(
    count: int = SLICES, *, syntax: UID = ExplicitVRLittleEndian, order: Sequence[int] | None = None
) -> FileDataset:
    """An enhanced CT with `count` frames; frame n holds slice `order[n]`."""
    order = range(count) if order is None else order
    header = make_slice(0, "1.2.3.7")
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    header.file_meta.TransferSyntaxUID = syntax
    for keyword in (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "SliceThickness",
        "RescaleSlope",
        "RescaleIntercept",
    ):
        del header[keyword]
    header.NumberOfFrames = count
    header.PixelData = b"".join(pixels_of(k).tobytes() for k in order)
    orientation, measures, shared = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing, measures.SliceThickness = [SPACING, SPACING], STEP
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    header.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for k in order:
        group, position, values = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [10.0, 20.0, 30.0 + STEP * k]
        values.RescaleSlope, values.RescaleIntercept = 1, -1024
        group.PlanePositionSequence, group.PixelValueTransformationSequence = [position], [values]
        frames.append(group)
    header.PerFrameFunctionalGroupsSequence = frames
    return header


ANY = ReadOptions(fill_gap=True, regrid=True, skip_unreadable=True, spacing=(1, 1, 1), frame=0)


def read_quietly(path: Path, **options: object) -> Volume:
    """Outcome OK: no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_series(path, options=ReadOptions(**options))


def read_warned(path: Path, match: str, **options: object) -> Volume:
    """Outcome W: exactly one warning, that names the folder and the fact, also in the notes."""
    with pytest.warns(DataWarning, match=match) as caught:
        volume = read_series(path, options=ReadOptions(**options))
    assert [str(one.message) for one in caught] == [f"{path}: {note}" for note in volume.notes]
    assert len(caught) == 1
    return volume


def refuse(path: Path, match: str, **options: object) -> InputError:
    with pytest.raises(InputError, match=match) as caught:
        read_series(path, options=ReadOptions(**options))
    assert str(path) in str(caught.value)
    assert caught.value.fix
    assert "CANARY" not in str(caught.value)
    return caught.value


def assert_control(volume: Volume) -> None:
    np.testing.assert_array_equal(volume.array, expected_array())
    np.testing.assert_allclose(volume.geometry.affine, expected_affine(), atol=1e-6)
    assert volume.geometry.is_known
