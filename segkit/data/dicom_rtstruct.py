"""DICOM RT structure sets: label maps as planar contours, and contours as masks.

Contours run between the centres of inside and outside pixels, so testing which pixel centres lie
inside gives the mask back voxel by voxel. Holes and islands are contours of their own, combined by
the even-odd rule. As with segmentation objects, the file points at its source by UIDs and at
nobody.

Written with pydicom instead of rt-utils, which rounds contours through pixel centres in float32
(half a pixel too small on every side), cuts a channel into holes, and copies the patient's name.
"""

import datetime
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import contourpy
import numpy as np
from jaxtyping import Bool, Float, Shaped
from matplotlib.path import Path as Polygon
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from segkit.data.atomic import atomic_file
from segkit.data.dicom_file import quiet_parser, read_dataset, refuse_damage
from segkit.data.dicom_seg import check_mask, source_headers
from segkit.data.volume import Volume
from segkit.errors import InputError
from segkit.geometry import Geometry
from segkit.version import VERSION

RT_STRUCTURE_SET = UID("1.2.840.10008.5.1.4.1.1.481.3")
_STUDY = UID("1.2.840.10008.3.1.2.3.1")  # retired class that the standard still asks for here
_LEVEL = 0.51
"""Between 0 (outside) and 1 (inside): readers that round to pixel centres then round inwards."""
_PATIENT = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "StudyID", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
_COLOURS = ((255, 64, 64), (64, 160, 255), (64, 200, 96), (255, 192, 0), (192, 96, 255))
_OFF_PLANE_VOXELS = 0.01


def write_rtstruct(
    path: str | Path,
    mask: Shaped[np.ndarray, "k j i"],
    like: Volume,
    labels: Mapping[int, str] | None = None,
    *,
    identifiers: bool = False,
) -> None:
    """Write a label map as a structure set of the series that `like` was read from.

    Values become regions 1, 2, ... in ascending order, named by `labels`. `identifiers` copies the
    patient's and the study's attributes, which are left empty otherwise. The file appears only
    when it is complete.

    Raises:
        InputError: `like` is not a DICOM series on its own grid, or the mask does not fit it.
    """
    path = Path(path)
    check_mask(path, mask, like)
    with atomic_file(path) as file:
        encode_rtstruct(file, mask, like, labels, identifiers=identifiers)


def encode_rtstruct(
    file: BinaryIO,
    mask: Shaped[np.ndarray, "k j i"],
    like: Volume,
    labels: Mapping[int, str] | None = None,
    *,
    identifiers: bool = False,
) -> None:
    """Write what `write_rtstruct` writes into an open file.

    Raises:
        InputError: As `write_rtstruct`.
    """
    values = check_mask(None, mask, like)
    headers, order = source_headers(like, identifiers)
    images: list[Dataset | None] = [None] * mask.shape[0]
    for n, k in enumerate(order):
        if k is not None:
            images[k] = _image(headers, n)
    document = _document(headers, [image for image in images if image is not None])
    for number, value in enumerate(values, start=1):
        name = (labels or {}).get(value, f"label {value}")
        contours = [
            _contour(points, images[k])
            for k in range(mask.shape[0])
            for points in contours_of(mask[k] == value, k, like.geometry)
        ]
        _add_region(document, number, name, contours)
    with quiet_parser():
        document.save_as(file, enforce_file_format=True)


def read_rtstruct(path: str | Path, *, like: Volume) -> Mapping[str, Bool[np.ndarray, "k j i"]]:
    """Read each region as a mask on the grid of `like`, by name; they may overlap.

    A voxel belongs to a region if its centre lies inside an odd number of the region's contours.
    Regions of one name are numbered.

    Raises:
        InputError: The file is no structure set, its contours lie between the slices of `like` or
            outside of it, or it refers to another frame of reference.
    """
    dataset, _ = read_dataset(path)
    if dataset.get("SOPClassUID") != RT_STRUCTURE_SET:
        raise InputError("is no RT structure set", path=path, fix="give an RTSTRUCT file")
    masks: dict[str, np.ndarray] = {}
    with refuse_damage(path):
        regions = [(int(r.ROINumber), str(r.ROIName)) for r in dataset.StructureSetROISequence]
        drawn = {int(r.ReferencedROINumber): r for r in dataset.ROIContourSequence}
        for number, name in regions:
            mask = np.zeros(like.geometry.shape, dtype=bool)
            for points in _points(drawn.get(number)):
                _fill(mask, points, like.geometry, Path(path))
            masks[name if name not in masks else f"{name} ({number})"] = mask
    return MappingProxyType(masks)


def contours_of(
    mask: Bool[np.ndarray, "rows columns"], k: int, geometry: Geometry
) -> Iterator[Float[np.ndarray, "points 3"]]:
    """Closed outlines of slice `k` in patient millimetres (x, y, z), left-posterior-superior."""
    if not mask.any():
        return
    # an empty frame closes what touches the border
    lines = contourpy.contour_generator(z=np.pad(mask, 1).astype(np.float64)).lines(_LEVEL)
    for line in lines:
        columns, rows = np.asarray(line)[:-1].T - 1  # the last point repeats the first
        index = np.stack([np.full(len(rows), float(k)), rows, columns], axis=1)
        yield geometry.to_world_mm(index, "lps")


def _fill(
    mask: Bool[np.ndarray, "k j i"],
    points: Float[np.ndarray, "n 3"],
    geometry: Geometry,
    path: Path,
) -> None:
    """Flip the voxels whose centres lie inside one contour."""
    index = geometry.to_index(points, "lps")
    k = int(np.rint(index[0, 0]))
    off = float(np.abs(index[:, 0] - k).max())
    if off > _OFF_PLANE_VOXELS or not 0 <= k < mask.shape[0]:
        raise InputError(
            f"has a contour {off:.2g} slices off slice {k} of an image with {mask.shape[0]} slices",
            path=path,
            fix="give the image the structure set was drawn on",
            code="grid",
        )
    first = np.maximum(np.floor(index[:, 1:].min(axis=0)).astype(int), 0)
    last = np.minimum(np.ceil(index[:, 1:].max(axis=0)).astype(int) + 1, mask.shape[1:])
    if (last <= first).any():
        return
    rows, columns = np.mgrid[first[0] : last[0], first[1] : last[1]]
    centres = np.stack([rows.ravel(), columns.ravel()], axis=1)
    inside = Polygon(index[:, 1:]).contains_points(centres).reshape(rows.shape)
    mask[k, first[0] : last[0], first[1] : last[1]] ^= inside


def _points(region: Dataset | None) -> Iterator[Float[np.ndarray, "n 3"]]:
    for contour in [] if region is None else region.get("ContourSequence", []):
        if str(contour.ContourGeometricType).startswith("CLOSED"):
            yield np.array(contour.ContourData, dtype=np.float64).reshape(-1, 3)


def _contour(points: Float[np.ndarray, "n 3"], image: Dataset | None) -> Dataset:
    contour = Dataset()
    if image is not None:
        contour.ContourImageSequence = [image]
    contour.ContourGeometricType = "CLOSED_PLANAR"
    contour.NumberOfContourPoints = len(points)
    # decimal strings hold 16 characters: a micrometre in any scanner
    contour.ContourData = [f"{value:.6f}" for value in points.ravel()]
    return contour


def _image(headers: Sequence[Dataset], n: int) -> Dataset:
    """Reference to the n-th source frame."""
    is_multiframe = len(headers) == 1 and "NumberOfFrames" in headers[0]
    source = headers[0 if is_multiframe else n]
    image = Dataset()
    image.ReferencedSOPClassUID = source.SOPClassUID
    image.ReferencedSOPInstanceUID = source.SOPInstanceUID
    if is_multiframe:
        image.ReferencedFrameNumber = n + 1
    return image


def _document(headers: Sequence[Dataset], images: Sequence[Dataset]) -> Any:
    """A structure set without regions."""
    source, now = headers[0], datetime.datetime.now(datetime.UTC)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = RT_STRUCTURE_SET
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    document = Dataset()
    document.file_meta = meta
    document.SOPClassUID = RT_STRUCTURE_SET
    document.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    document.Modality = "RTSTRUCT"
    document.Manufacturer = document.ManufacturerModelName = "segkit"
    document.SoftwareVersions = VERSION
    document.SpecificCharacterSet = "ISO_IR 192"
    for keyword in _PATIENT:
        setattr(document, keyword, source.get(keyword, ""))
    document.StudyInstanceUID = source.StudyInstanceUID
    document.SeriesInstanceUID = generate_uid()
    document.SeriesNumber = 1000
    document.InstanceNumber = 1
    document.FrameOfReferenceUID = source.FrameOfReferenceUID
    document.PositionReferenceIndicator = ""
    document.StructureSetLabel = "segkit"
    document.StructureSetDate, document.StructureSetTime = f"{now:%Y%m%d}", f"{now:%H%M%S}"
    document.ApprovalStatus = "UNAPPROVED"
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = source.SeriesInstanceUID
    series.ContourImageSequence = list(images)
    study.ReferencedSOPClassUID = _STUDY
    study.ReferencedSOPInstanceUID = source.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = source.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    document.ReferencedFrameOfReferenceSequence = [frame]
    document.StructureSetROISequence = []
    document.ROIContourSequence = []
    document.RTROIObservationsSequence = []
    return document


def _add_region(document: Any, number: int, name: str, contours: Sequence[Dataset]) -> None:
    region, drawn, observed = Dataset(), Dataset(), Dataset()
    region.ROINumber = number
    region.ReferencedFrameOfReferenceUID = document.FrameOfReferenceUID
    region.ROIName = name[:64]
    region.ROIGenerationAlgorithm = "SEMIAUTOMATIC"
    drawn.ROIDisplayColor = list(_COLOURS[(number - 1) % len(_COLOURS)])
    drawn.ContourSequence = list(contours)
    drawn.ReferencedROINumber = observed.ReferencedROINumber = number
    observed.ObservationNumber = number
    observed.RTROIInterpretedType = observed.ROIInterpreter = ""
    document.StructureSetROISequence.append(region)
    document.ROIContourSequence.append(drawn)
    document.RTROIObservationsSequence.append(observed)
