"""Tiny folders in the layouts of the two sets, as far as training batches."""

import numpy as np
import pytest
import SimpleITK

from segkit.data.clips_datamodule import ClipDataModule
from segkit.data.clips_sequences import ClipSpec
from segkit.data.preprocess import InputSpec, Intensity
from tools.clip_sets import echonet, trackrad

VIEW = InputSpec(3, 64, "repeat", Intensity("percentile", low=0, high=100), slice_axis=0)
WINDOWS = ClipSpec(frames=4, windows=2)


def _moving(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames and masks of a square that moves down, [t j i]."""
    masks = np.zeros((6, 32, 40), np.uint8)
    for t, mask in enumerate(masks):
        mask[4 + 2 * t : 14 + 2 * t, 8 + number : 20 + number] = 1
    return (40 + 150 * masks).astype(np.uint16), masks


def _batch(root, tmp_path):
    data = ClipDataModule(root, model_input=VIEW, clips=WINDOWS, cache_dir=tmp_path / "cache")
    return data, next(iter(data.train_loader(0)))


def test_trackrad(tmp_path) -> None:
    for number in range(5):
        case = tmp_path / "source" / f"A_{number:03d}"
        for kind, suffix, array in zip(
            ("images", "targets"), ("frames", "labels"), _moving(number), strict=True
        ):
            (case / kind).mkdir(parents=True)
            image = SimpleITK.GetImageFromArray(array)
            SimpleITK.WriteImage(image, str(case / kind / f"{case.name}_{suffix}.mha"))
    (tmp_path / "source" / "B_000" / "images").mkdir(parents=True)
    SimpleITK.WriteImage(
        SimpleITK.GetImageFromArray(_moving(0)[0]),
        str(tmp_path / "source" / "B_000" / "images" / "B_000_frames.mha"),
    )
    names = trackrad(tmp_path / "source", tmp_path / "out")
    assert names == [f"A_{number:03d}" for number in range(5)]  # B_000 has no labels
    data, batch = _batch(tmp_path / "out", tmp_path)
    assert batch.frames.shape[1:] == (4, 3, 64, 64)
    assert batch.masks[:, 0].flatten(1).any(1).all()
    assert len(data.train_clips) + len(data.val_clips) == 5


def test_echonet(tmp_path) -> None:
    av = pytest.importorskip("av")

    def write(path, frames):
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=50)
            stream.width, stream.height, stream.pix_fmt = 40, 32, "yuv420p"
            for frame in frames:
                colours = np.repeat(frame[..., None], 3, axis=2).astype(np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(colours, format="rgb24")))
            container.mux(stream.encode())

    lines = ["FileName,EF,Split"]
    for number, split in enumerate(["TRAIN", "TRAIN", "VAL", "TEST", "TRAIN"]):
        frames, masks = _moving(number)
        write(tmp_path / "set" / "Videos" / f"0X{number}.avi", frames)
        if number < 4:
            write(tmp_path / "masks" / f"0X{number}.avi", 255 * masks)
        lines.append(f"0X{number},55.1,{split}")
    (tmp_path / "set" / "FileList.csv").write_text("\n".join(lines) + "\n")
    names = echonet(tmp_path / "set", tmp_path / "out", tmp_path / "masks")
    assert names == ["0X0", "0X1", "0X2", "0X3"]
    written = SimpleITK.GetArrayFromImage(
        SimpleITK.ReadImage(str(tmp_path / "out/train/labels/0X1.mha"))
    )
    assert written.shape == (6, 32, 40)
    assert np.mean(written == _moving(1)[1]) > 0.97
    data, batch = _batch(tmp_path / "out", tmp_path)
    assert (len(data.train_clips), len(data.val_clips)) == (2, 1)
    assert batch.frames.shape[1:] == (4, 3, 64, 64)


def test_nothing_to_prepare_is_said(tmp_path) -> None:
    with pytest.raises(SystemExit, match=r"no CASE/images/CASE_frames\.mha with a label"):
        trackrad(tmp_path, tmp_path / "out")
