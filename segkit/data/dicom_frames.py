"""What the headers of a file say about each of its frames: where it lies and how to scale it.

Lengths are in millimetres and coordinates in DICOM's own frame, left-posterior-superior.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from sys import intern

from pydicom.dataset import Dataset, FileDataset
from pydicom.tag import BaseTag, Tag

from segkit.data.dicom_file import (
    PIXEL_TAGS,
    UNDEFINED_LENGTH,
    is_deflated,
    read_dataset,
    refuse_damage,
)
from segkit.data.dicom_mosaic import CSA_IMAGE, Mosaic, read_mosaic
from segkit.errors import InputError

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
_NOT_IMAGES = (
    "1.2.840.10008.1.3.10",  # media directory
    "1.2.840.10008.5.1.4.1.1.66",  # segmentation, registration, surfaces
    "1.2.840.10008.5.1.4.1.1.88",  # structured reports
    "1.2.840.10008.5.1.4.1.1.104",  # documents
    "1.2.840.10008.5.1.4.1.1.481",  # radiotherapy: dose, structures, plans
    "1.2.840.10008.5.1.4.1.1.11",  # presentation states
    "1.2.840.10008.5.1.4.1.1.9",  # waveforms
)
_PLACES = ("ImagePositionPatient", "ImageOrientationPatient", "SliceThickness")
_FAR_MM = 1e6
_SLICES = frozenset(
    "1.2.840.10008.5.1.4.1.1." + end for end in ("2", "2.1", "2.2", "4", "4.1", "4.4", "128")
)
_STACK_MARKS = (
    "TemporalPositionIdentifier", "EchoNumbers", "EchoTime", "DiffusionBValue", "ImageType",
    "AcquisitionNumber", "TriggerTime", "AcquisitionTime", "ContentTime",
)  # fmt: skip
_FRAME_MARKS = (
    ("FrameContentSequence", "TemporalPositionIndex"),
    ("MREchoSequence", "EffectiveEchoTime"),
    ("MRDiffusionSequence", "DiffusionBValue"),
    ("MRImageFrameTypeSequence", "FrameType"),
    ("CTImageFrameTypeSequence", "FrameType"),
    ("FrameContentSequence", "StackID"),
    ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
)
_KEYWORDS = (
    "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "PatientID",
    "FrameOfReferenceUID", "Modality", "Rows", "Columns", "PixelSpacing", "SliceThickness",
    "SpacingBetweenSlices", "ImageOrientationPatient", "ImagePositionPatient", "InstanceNumber",
    "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "PhotometricInterpretation",
    "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "NumberOfFrames", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "SegmentSequence", "SegmentationType", *_STACK_MARKS,
)  # fmt: skip
HEADER_TAGS: list[BaseTag | int] = [*map(Tag, _KEYWORDS), Tag(CSA_IMAGE)]


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the stored bits of a frame are to be understood."""

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool
    photometric: str
    samples: int
    has_lut: bool = False
    is_float: bool = False


@dataclass(frozen=True, slots=True)
class Frame:
    """One slice: file, index within it, and all that ordering and scaling need.

    `spacing_mm` is (between rows, between columns); `orientation` the directions of increasing
    column and row; `position_mm` the centre of the first pixel. `marks` tell stacks of one series
    apart (time, echo, ...). `tile` places a slice within a mosaic.
    """

    path: str
    index: int
    sop_class: str
    series: str
    patient: str
    reference: str
    modality: str
    number: int
    encoding: Encoding
    spacing_mm: tuple[float, float] | None
    thickness_mm: float | None
    orientation: tuple[float, ...] | None
    position_mm: tuple[float, ...] | None
    slope: float
    intercept: float
    marks: tuple[str, ...]
    tile: tuple[int, int] | None = None
    segment: int = 0


# a folder of 100,000 slices shares a few of them
_shared_encoding = lru_cache(maxsize=1024)(Encoding)


def is_image_class(sop_class: str) -> bool:
    """Whether objects of this class hold image slices; dose, reports and masks do not."""
    return not sop_class.startswith(_NOT_IMAGES)


def read_frames(path: str | Path) -> list[Frame]:
    """Describe every frame of a file from its header; pixels are not touched.

    Objects without pixels give an empty list.

    Raises:
        InputError: Damaged, cut short, or an image whose pixel data are missing.
    """
    dataset, mark = read_dataset(path, tags=HEADER_TAGS)
    with refuse_damage(path):
        sop_class = str(dataset.get("SOPClassUID") or _media_class(dataset))
        if not mark.tag:
            if sop_class in _SLICES or ("Rows" in dataset and is_image_class(sop_class)):
                raise _missing_pixels(path)
            return []
        encoding = _encoding(dataset, mark.tag, path)
        count = int(dataset.get("NumberOfFrames") or 1)
        if mark.length != UNDEFINED_LENGTH and not is_deflated(dataset):
            _check_pixel_length(path, encoding, count, mark.length)
        if "PerFrameFunctionalGroupsSequence" in dataset:
            return _enhanced_frames(dataset, str(path), encoding, count)
        frame = _classic_frame(dataset, str(path), encoding)
        if count > 1:
            # a cine loop or an old multi-frame object: nothing says where its frames lie
            frame = replace(frame, position_mm=None, index=-count)
        if "MOSAIC" in [str(part) for part in dataset.get("ImageType") or ()]:
            return _mosaic_frames(frame, read_mosaic(dataset, path))
        return [frame]


def _media_class(dataset: FileDataset) -> str:
    return str(dataset.file_meta.get("MediaStorageSOPClassUID") or "")


def _missing_pixels(path: str | Path) -> InputError:
    return InputError(
        "ends before its pixel data begin",
        path=path,
        fix="copy or export the file again, or leave it out with --skip-unreadable",
        code="truncated",
        option="--skip-unreadable",
    )


def _check_pixel_length(path: str | Path, encoding: Encoding, count: int, length: int) -> None:
    bits = encoding.rows * encoding.columns * encoding.samples * encoding.bits_allocated * count
    if encoding.photometric == "YBR_FULL_422":
        bits = bits * 2 // 3
    if (expected := (bits + 7) // 8) > length:
        raise InputError(
            f"declares {count} x {encoding.rows} x {encoding.columns} pixels ({expected:,} bytes), "
            f"but its pixel data have {length:,} bytes",
            path=path,
            fix="the file is damaged; copy or export it again",
            code="truncated",
        )


def _encoding(dataset: FileDataset, tag: int, path: str | Path) -> Encoding:
    is_float = tag in PIXEL_TAGS and tag != 0x7FE00010
    allocated = int(dataset.BitsAllocated)
    stored = int(dataset.get("BitsStored") or allocated)
    high = dataset.get("HighBit")
    high_bit = stored - 1 if high is None or high == "" else int(high)
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if min(rows, columns) < 1 or not 0 < stored <= high_bit + 1 <= allocated <= 64:
        raise InputError(
            f"declares {rows} x {columns} pixels of {stored} bits, high bit {high_bit}, in "
            f"{allocated} bits",
            path=path,
            fix="these numbers contradict each other; export the file again",
            code="header",
        )
    return _shared_encoding(
        rows, columns, allocated, stored, high_bit,
        is_signed=bool(int(dataset.get("PixelRepresentation") or 0)),
        photometric=str(dataset.get("PhotometricInterpretation") or "MONOCHROME2"),
        samples=int(dataset.get("SamplesPerPixel") or 1),
        has_lut="ModalityLUTSequence" in dataset,
        is_float=is_float,
    )  # fmt: skip


def _floats(dataset: Dataset | None, keyword: str, count: int) -> tuple[float, ...] | None:
    """Values of an element; None if it is absent or empty, an error if they are not numbers."""
    value = None if dataset is None else dataset.get(keyword)
    if value is None or value == "":
        return None
    values = tuple(float(v) for v in (value if isinstance(value, Iterable) else [value]))
    if not values:
        return None
    if len(values) != count or not all(math.isfinite(v) for v in values):
        raise ValueError(f"{keyword} needs {count} finite numbers")
    if keyword in _PLACES and max(map(abs, values)) > _FAR_MM:
        raise ValueError(f"{keyword} is more than {_FAR_MM:g} mm away")
    return values


def _float(dataset: Dataset | None, keyword: str) -> float | None:
    values = _floats(dataset, keyword, 1)
    return None if values is None else values[0]


def _spacing(dataset: Dataset | None) -> tuple[float, float] | None:
    """In-plane spacing in mm; None if it is missing or no length a pixel can have."""
    values = _floats(dataset, "PixelSpacing", 2)
    if values is None or min(values) < 1 / _FAR_MM or max(values) > _FAR_MM:
        return None
    return values[0], values[1]


def _thickness(dataset: Dataset | None) -> float | None:
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        if value := _float(dataset, keyword):
            return abs(value)
    return None


def _mark(value: object) -> str:
    return "" if value is None else intern(str(value))


def _classic_frame(dataset: FileDataset, path: str, encoding: Encoding) -> Frame:
    slope = _float(dataset, "RescaleSlope")
    return Frame(
        path, 0,
        sop_class=intern(str(dataset.get("SOPClassUID") or _media_class(dataset))),
        series=intern(str(dataset.get("SeriesInstanceUID") or "")),
        patient=intern(str(dataset.get("PatientID") or "")),
        reference=intern(str(dataset.get("FrameOfReferenceUID") or "")),
        modality=intern(str(dataset.get("Modality") or "")),
        number=int(dataset.get("InstanceNumber") or 0),
        encoding=encoding,
        spacing_mm=_spacing(dataset),
        thickness_mm=_thickness(dataset),
        orientation=_floats(dataset, "ImageOrientationPatient", 6),
        position_mm=_floats(dataset, "ImagePositionPatient", 3),
        slope=1.0 if slope is None else slope,
        intercept=_float(dataset, "RescaleIntercept") or 0.0,
        marks=tuple(_mark(dataset.get(keyword)) for keyword in _STACK_MARKS),
    )  # fmt: skip


def _enhanced_frames(
    dataset: FileDataset, path: str, encoding: Encoding, count: int
) -> list[Frame]:
    """Frames of a multi-frame object, from shared and per-frame functional groups."""
    groups = dataset.PerFrameFunctionalGroupsSequence
    if len(groups) != count:
        raise InputError(
            f"declares {count} frames but describes {len(groups)}",
            path=path,
            fix="the file is inconsistent; export it again",
            code="header",
        )
    shared = dataset.get("SharedFunctionalGroupsSequence") or [Dataset()]
    base = _classic_frame(dataset, path, encoding)
    return [_enhanced_frame(base, i, group, shared[0]) for i, group in enumerate(groups)]


def _enhanced_frame(base: Frame, index: int, group: Dataset, shared: Dataset) -> Frame:
    def macro(name: str) -> Dataset | None:
        items = group.get(name) or shared.get(name)
        return items[0] if items else None

    measures, values = macro("PixelMeasuresSequence"), macro("PixelValueTransformationSequence")
    slope = _float(values, "RescaleSlope")
    segment = macro("SegmentIdentificationSequence")
    found = ((macro(name), keyword) for name, keyword in _FRAME_MARKS)
    return replace(
        base,
        index=index,
        number=base.number * 100_000 + index,
        spacing_mm=_spacing(measures),
        thickness_mm=_thickness(measures),
        orientation=_floats(macro("PlaneOrientationSequence"), "ImageOrientationPatient", 6),
        position_mm=_floats(macro("PlanePositionSequence"), "ImagePositionPatient", 3),
        slope=1.0 if slope is None else slope,
        intercept=_float(values, "RescaleIntercept") or 0.0,
        marks=tuple(_mark(item.get(key)) if item is not None else "" for item, key in found),
        segment=0 if segment is None else int(segment.ReferencedSegmentNumber),
    )


def _mosaic_frames(frame: Frame, mosaic: Mosaic) -> list[Frame]:
    """The slices hidden in one mosaic, with their true positions."""
    encoding = replace(frame.encoding, rows=mosaic.rows, columns=mosaic.columns)
    return [
        replace(
            frame,
            encoding=encoding,
            index=k,
            position_mm=position,
            thickness_mm=mosaic.step_mm,
            tile=mosaic.tile(k),
            # every mosaic of a series is one time point
            marks=(f"{frame.number:09d}", *frame.marks),
        )
        for k, position in enumerate(mosaic.positions_mm)
    ]
