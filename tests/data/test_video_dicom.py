import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from segkit.data.video_dicom import CineFile, CineFolder
from segkit.data.video_open import open_frames


def _cine(path, frames, *, number=1, position=None):
    """Write grey (t, h, w) or colour (t, h, w, 3) frames as one file."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.3.1"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    one = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    one.SOPClassUID, one.SOPInstanceUID = meta.MediaStorageSOPClassUID, generate_uid()
    one.Modality, one.InstanceNumber = "US", number
    is_colour = frames.ndim == 4
    one.Rows, one.Columns = frames.shape[1:3]
    one.SamplesPerPixel = 3 if is_colour else 1
    one.PhotometricInterpretation = "RGB" if is_colour else "MONOCHROME2"
    if is_colour:
        one.PlanarConfiguration = 0
    one.BitsAllocated = one.BitsStored = 8 * frames.dtype.itemsize
    one.HighBit, one.PixelRepresentation = one.BitsStored - 1, 0
    if len(frames) > 1:
        one.NumberOfFrames, one.FrameTime = len(frames), "40"
        region = Dataset()
        region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
        region.PhysicalDeltaX, region.PhysicalDeltaY = 0.02, 0.03
        one.SequenceOfUltrasoundRegions = [region]
    if position is not None:
        one.ImagePositionPatient, one.ImageOrientationPatient = position, [1, 0, 0, 0, 1, 0]
        one.PixelSpacing = [1.5, 1.25]
    one.PixelData = frames.tobytes()
    one.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize("shape", [(5, 16, 20), (5, 16, 20, 3)])
def test_multi_frame_file_is_read_frame_by_frame(tmp_path, shape) -> None:
    frames = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    _cine(tmp_path / "loop.dcm", frames)
    source = open_frames(tmp_path / "loop.dcm")
    assert isinstance(source, CineFile)
    assert (source.count, source.size) == (5, (16, 20))
    assert source.spacing_mm == pytest.approx((0.3, 0.2))
    np.testing.assert_array_equal(source.read(3).array, frames[3])
    assert source.time_s(3) == pytest.approx(0.12)
    with pytest.raises(ValueError, match=r"no frame 5: the sequence has 5 frames"):
        source.read(5)


def test_folder_of_time_points_at_one_place_is_sorted_by_number(tmp_path) -> None:
    frames = np.random.default_rng(0).integers(0, 900, (3, 16, 20), dtype=np.uint16)
    for name, number in (("a", 2), ("b", 0), ("c", 1)):
        _cine(tmp_path / name, frames[number][None], number=number, position=[0, 0, 5])
    source = open_frames(tmp_path)
    assert isinstance(source, CineFolder)
    assert (source.count, source.spacing_mm) == (3, (1.5, 1.25))
    np.testing.assert_array_equal(source.read(1).array, frames[1])
    low, high = source.value_range
    assert 0 <= low < high <= 900
