"""DICOM segmentation objects: label maps in, label maps out.

What is written points at its source by the UIDs the standard demands (study, series, instances,
frame of reference) and at nobody: patient and study attributes stay empty unless they are asked
for.
"""

import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Bool, Shaped
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import generate_uid

from segkit.data.atomic import atomic_file
from segkit.data.dicom_file import quiet_parser, read_dataset, refuse_damage
from segkit.data.dicom_frames import SEGMENTATION, Frame, read_frames
from segkit.data.dicom_lattice import geometry_of, is_regular, slots_of
from segkit.data.dicom_pixels import decode_file
from segkit.data.dicom_series import check_directions, directions
from segkit.data.volume import Volume
from segkit.errors import InputError, MissingExtraError
from segkit.geometry import Geometry
from segkit.version import VERSION

_REFERENCES = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID",
    "FrameOfReferenceUID", "Modality", "Rows", "Columns", "PixelSpacing", "SliceThickness",
    "SpacingBetweenSlices", "ImageOrientationPatient", "ImagePositionPatient", "NumberOfFrames",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
_PLANES = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
_PATIENT = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID",
    "StudyDate", "StudyTime", "ReferringPhysicianName",
)  # fmt: skip


def read_seg(path: str | Path, *, like: Volume | None = None, segment: int | None = None) -> Volume:
    """Read a segmentation object as a label map: segment numbers, named in `labels`.

    On the grid of `like` if given, otherwise on the smallest grid that holds its frames. `segment`
    keeps only the n-th segment, from 0.

    Raises:
        InputError: Segments overlap and none is chosen, `like` has another grid or frame of
            reference, or the object is damaged or holds fractions.
    """
    frames, names = _segment_frames(path)
    numbers = sorted({frame.segment for frame in frames})
    if segment is not None:
        if not 0 <= segment < len(numbers):
            raise _segment_needed(path, f"has no segment --frame {segment}", len(numbers))
        numbers = [numbers[segment]]
        frames = [frame for frame in frames if frame.segment == numbers[0]]
    geometry, slots = _grid(frames, Path(path), like)
    labels = np.zeros(geometry.shape, dtype=np.uint8 if max(numbers) < 256 else np.uint16)
    for frame, k, pixels in _decoded(frames, slots):
        inside = pixels > 0
        if (labels[k][inside] != 0).any():
            raise _segment_needed(path, "has segments that overlap", len(numbers))
        labels[k][inside] = frame.segment
    kept = {number: names.get(number, f"segment {number}") for number in numbers}
    return Volume(labels, geometry, Path(path), MappingProxyType(kept), {"format": "dicom-seg"})


def read_seg_channels(
    path: str | Path, *, like: Volume | None = None
) -> Mapping[int, Bool[np.ndarray, "k j i"]]:
    """Read each segment as a mask of its own, by number; they may overlap.

    Raises:
        InputError: As `read_seg`, apart from overlaps.
    """
    frames, _ = _segment_frames(path)
    geometry, slots = _grid(frames, Path(path), like)
    masks = {n: np.zeros(geometry.shape, dtype=bool) for n in sorted({f.segment for f in frames})}
    for frame, k, pixels in _decoded(frames, slots):
        masks[frame.segment][k] |= pixels > 0
    return masks


def write_seg(
    path: str | Path,
    mask: Shaped[np.ndarray, "k j i"],
    like: Volume,
    labels: Mapping[int, str] | None = None,
    *,
    identifiers: bool = False,
) -> None:
    """Write a label map as a segmentation object of the series that `like` was read from.

    Values become segments 1, 2, ... in ascending order, named by `labels`. The headers of the
    source are read again; `identifiers` copies the patient's and the study's attributes, which are
    left empty otherwise. The file appears only when it is complete.

    Raises:
        InputError: `like` is not a DICOM series on its own grid, or the mask does not fit it.
        MissingExtraError: highdicom is not installed.
    """
    path = Path(path)
    check_mask(path, mask, like)
    with atomic_file(path) as file:
        encode_seg(file, mask, like, labels, identifiers=identifiers)


def encode_seg(
    file: BinaryIO,
    mask: Shaped[np.ndarray, "k j i"],
    like: Volume,
    labels: Mapping[int, str] | None = None,
    *,
    identifiers: bool = False,
) -> None:
    """Write what `write_seg` writes into an open file.

    Raises:
        InputError: As `write_seg`.
        MissingExtraError: highdicom is not installed.
    """
    values = check_mask(None, mask, like)
    sources, order = source_headers(like, identifiers)
    pixels = np.zeros((len(order), *mask.shape[1:]), dtype=np.uint8)
    for number, value in enumerate(values, start=1):
        for n, k in enumerate(order):
            if k is not None:
                pixels[n][mask[k] == value] = number
    names = [(labels or {}).get(value, f"label {value}") for value in values]
    with quiet_parser():
        _document(sources, pixels, names).save_as(file, enforce_file_format=True)


def _segment_frames(path: str | Path) -> tuple[list[Frame], dict[int, str]]:
    frames = read_frames(path)
    if not frames or frames[0].sop_class != SEGMENTATION:
        raise InputError(
            "is not a DICOM segmentation object", path=path, fix="give a SEG file", code="not_seg"
        )
    dataset, _ = read_dataset(path, tags=[Tag("SegmentSequence"), Tag("SegmentationType")])
    with refuse_damage(path):
        if (kind := str(dataset.get("SegmentationType"))) != "BINARY":
            raise InputError(
                f"holds {kind} segments; BINARY ones are read",
                path=path,
                fix="export it as a binary segmentation",
                code="fractional",
            )
        names = {int(s.SegmentNumber): str(s.get("SegmentLabel")) for s in dataset.SegmentSequence}
    if any(f.position_mm is None or f.orientation is None or f.segment < 1 for f in frames):
        raise InputError(
            "has frames without position, orientation or segment number",
            path=path,
            fix="export it again",
            code="no_positions",
        )
    return frames, names


def _decoded(
    frames: Sequence[Frame], slots: Sequence[int]
) -> Iterator[tuple[Frame, int, np.ndarray]]:
    pixels = decode_file(frames[0].path, frames)
    yield from zip(frames, slots, pixels, strict=True)


def _grid(frames: Sequence[Frame], path: Path, like: Volume | None) -> tuple[Geometry, list[int]]:
    """Lattice of the label map and the slice of each frame on it."""
    check_directions(frames, path)
    if like is not None:
        return like.geometry, _slots_on(frames, path, like)
    spacing = frames[0].spacing_mm
    along_row, along_column, normal = directions(frames[0])
    all_points = np.array([frame.position_mm for frame in frames])
    heights = np.round(all_points @ normal, 3)
    levels, first, which = np.unique(heights, return_index=True, return_inverse=True)
    points = all_points[first]
    distance = frames[0].thickness_mm or (float(np.diff(levels).min()) if len(levels) > 1 else 1.0)
    slots, step = np.zeros(1, dtype=np.int64), normal * distance
    if len(levels) > 1:
        slots, step, off = slots_of(points, normal, distance)
        if not is_regular(off, distance) or slots[-1] > 100 * len(frames):
            raise InputError(
                "has unevenly spaced frames", path=path, fix="read it on the grid of its image"
            )
    if spacing is None:
        raise InputError("has no PixelSpacing", path=path, fix="read it on the grid of its image")
    affine = np.eye(4)
    affine[:3] = np.stack(
        [along_row * spacing[1], along_column * spacing[0], step, points[0]], axis=1
    )
    encoding = frames[0].encoding
    shape = (int(slots[-1]) + 1, encoding.rows, encoding.columns)
    geometry = geometry_of(shape, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, path)
    return geometry, [int(slots[n]) for n in which]


def _slots_on(frames: Sequence[Frame], path: Path, like: Volume) -> list[int]:
    reference = _frame_of_reference(like)
    if reference is not None and frames[0].reference != reference:
        raise InputError(
            "refers to another FrameOfReferenceUID than the image",
            path=path,
            fix="use the segmentation of this very series, or register it first",
            code="frame_of_reference",
        )
    points = like.geometry.to_index(np.array([frame.position_mm for frame in frames]), "lps")
    k = np.rint(points[:, 0])
    step = like.geometry.affine[:3, :2] * np.array([-1.0, -1.0, 1.0])[:, None]
    along_row, along_column, _ = directions(frames[0])
    row_mm, column_mm = frames[0].spacing_mm or (0.0, 0.0)
    own = np.stack([along_row * column_mm, along_column * row_mm], axis=1)
    off = np.abs(points - np.stack([k, 0 * k, 0 * k], axis=1)).max()
    fits = off <= 0.01 and np.abs(step - own).max() <= 1e-3 and k.min() >= 0
    encoding, shape = frames[0].encoding, like.geometry.shape
    if not fits or k.max() >= shape[0] or (encoding.rows, encoding.columns) != shape[1:]:
        raise InputError(
            "lies on another grid than the image",
            path=path,
            fix="read it on its own grid and resample it as a label",
            code="grid",
        )
    return [int(value) for value in k]


def _frame_of_reference(volume: Volume) -> str | None:
    """Frame of reference of the series a volume was read from; None for other formats."""
    found = [source for source in _source_list(volume) if source is not None]
    return read_frames(found[0][0])[0].reference if found else None


def _source_list(volume: Volume) -> Sequence[tuple[str, int] | None]:
    sources = volume.header.get("sources", ())
    assert isinstance(sources, tuple)
    return sources


def _segment_needed(path: str | Path, cause: str, count: int) -> InputError:
    return InputError(
        f"{cause}; it has {count} segments",
        path=path,
        fix=f"choose one with --frame N, N from 0 to {count - 1}, or read_seg_channels in Python",
        code="overlap",
        option="--frame",
    )


def check_mask(path: Path | None, mask: np.ndarray, like: Volume) -> list[int]:
    """Values of a mask that can be written; nothing else passes."""
    sources = _source_list(like)
    if like.header.get("is_mosaic") or not any(sources) or not like.geometry.is_known:
        raise InputError(
            "a DICOM segmentation or structure set needs a source series with one position per "
            "slice",
            path=path,
            fix="save as .nii.gz or .nrrd (the source is no DICOM series, a mosaic or resampled)",
            code="no_source",
        )
    if mask.shape != like.geometry.shape:
        raise InputError(
            f"the mask has shape {mask.shape}, the series {like.geometry.shape}",
            path=path,
            fix="both are in order (k, j, i)",
            code="shape",
        )
    values = [int(value) for value in np.unique(mask) if value]
    if mask.dtype.kind not in "biu" or not values or values[0] < 1 or len(values) > 255:
        raise InputError(
            f"the mask has {len(values)} values of type {mask.dtype}; 1 to 255 positive labels are "
            "allowed",
            path=path,
            fix="save as .nii.gz, which can hold it",
            code="values",
        )
    return values


def source_headers(like: Volume, identifiers: bool) -> tuple[list[Dataset], list[int | None]]:
    """Reduced headers of the source, and for each of its frames the slice k (None: not used)."""
    files: dict[str, dict[int, int]] = {}
    for k, source in enumerate(_source_list(like)):
        if source is not None:
            files.setdefault(source[0], {})[source[1]] = k
    headers = [_reduced(name, identifiers) for name in files]
    if len(files) == 1 and "NumberOfFrames" in headers[0]:
        (by_frame,) = files.values()
        return headers, [by_frame.get(n) for n in range(int(headers[0].NumberOfFrames))]
    if any("NumberOfFrames" in header for header in headers):
        raise InputError(
            "a segmentation of several multi-frame files is not written",
            path=like.path,
            fix="save as .nii.gz or .nrrd",
            code="no_source",
        )
    return headers, [by_frame[0] for by_frame in files.values()]


def _reduced(name: str, identifiers: bool) -> Dataset:
    """Only what a segmentation must state about its source."""
    dataset, _ = read_dataset(name, tags=[Tag(keyword) for keyword in _REFERENCES + _PATIENT])
    with refuse_damage(name):
        header = Dataset()
        for keyword in _REFERENCES:
            if keyword in dataset:
                header[keyword] = dataset[keyword]
        for keyword in _PATIENT:
            setattr(header, keyword, dataset.get(keyword, "") if identifiers else "")
        for group in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
            if group in header:
                setattr(header, group, [_planes(item) for item in header[group].value])
    return header


def _planes(item: Dataset) -> Dataset:
    kept = Dataset()
    for name in _PLANES:
        if name in item:
            kept[name] = item[name]
    return kept


def _document(sources: list[Dataset], pixels: np.ndarray, names: Sequence[str]) -> Any:
    """Assemble the object with highdicom."""
    try:
        highdicom = importlib.import_module("highdicom")
        codes = importlib.import_module("pydicom.sr.codedict").codes
    except ImportError as error:
        raise MissingExtraError("highdicom", "dicom") from error
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="segkit", family=codes.DCM.ArtificialIntelligence, version=VERSION
    )
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=name[:64],
            segmented_property_category=category,
            segmented_property_type=kind,
            algorithm_type="SEMIAUTOMATIC",
            algorithm_identification=algorithm,
        )
        for number, (name, (category, kind)) in enumerate(
            ((name, _meaning(codes, name)) for name in names), start=1
        )
    ]
    return highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=pixels,
        segmentation_type="BINARY",
        segment_descriptions=segments,
        series_instance_uid=generate_uid(),
        series_number=1000,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="segkit",
        manufacturer_model_name="segkit",
        software_versions=VERSION,
        device_serial_number="0",
    )


def _meaning(codes: Any, name: str) -> tuple[Any, Any]:
    """Category and SNOMED CT type of a segment: a known anatomical name, or just tissue.

    Only names that the standard lists for segments count (CID 7192), so "nucleus" of a cell does
    not become one of the brain.
    """
    keyword = "".join(word.capitalize() for word in re.split(r"[^A-Za-z]+", name))
    if keyword in codes.cid7192.dir():
        return codes.SCT.AnatomicalStructure, getattr(codes.cid7192, keyword)
    return codes.SCT.Tissue, codes.SCT.Tissue
