"""Video files, made here: damaged, cut, of changing size and of variable rate."""

from fractions import Fraction

import numpy as np
import pytest

from segkit.data.video_file import VideoFile
from segkit.data.video_open import open_frames, read_ahead
from segkit.data.video_writer import OverlayWriter
from segkit.data.volume import Picture
from segkit.errors import InputError

av = pytest.importorskip("av")


def _frame(index: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    image = np.zeros((*size, 3), np.uint8)
    image[8:24, 2 * index : 2 * index + 12] = 220
    image[..., 2] = 10 * index
    return image


def write_video(path, times_s, *, codec="mpeg4", gop=4):
    """A clip with the given times; `_frame(n)` is frame n."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", gop
        if path.suffix == ".mp4":
            stream.codec_context.time_base = stream.time_base = Fraction(1, 12800)
        for index, time_s in enumerate(times_s):
            frame = av.VideoFrame.from_ndarray(_frame(index), format="rgb24")
            if path.suffix == ".mp4":
                frame.pts, frame.time_base = round(time_s * 12800), stream.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(params=["clip.mp4", "clip.avi"])
def clip(request, tmp_path):
    return write_video(tmp_path / request.param, np.arange(20) / 25)


def test_frames_come_in_any_order(clip) -> None:
    source = VideoFile(clip, kept=4)
    assert source.size == (48, 64)
    assert source.count is None
    straight = [source.read(index).array for index in range(20)]
    for index in (19, 3, 0, 11, 10, 9, 2, 18):
        np.testing.assert_array_equal(source.read(index).array, straight[index])
    assert abs(int(straight[7][30, 50, 2]) - 70) < 12
    with pytest.raises(InputError, match=r"no frame 20: the sequence has 20 frames"):
        source.read(20)
    assert source.count == 20
    assert source.notes == []
    assert source.time_s(10) == pytest.approx(0.4)
    source.close()


def test_first_frame_needs_only_the_beginning(tmp_path) -> None:
    path = write_video(tmp_path / "clip.avi", np.arange(20) / 25)
    source = VideoFile(path)
    source.read(0)
    assert source.count is None


def test_variable_frame_rate_keeps_the_times_and_is_noted(tmp_path) -> None:
    times = np.cumsum([0, *[0.02, 0.08] * 5])
    source = VideoFile(write_video(tmp_path / "clip.mp4", times))
    frames = list(read_ahead(source, range(100)))
    assert [source.time_s(index) for index, _ in frames] == pytest.approx(list(times), abs=1e-3)
    assert source.notes[0].startswith("variable frame rate: 20 to 80 ms between frames")


def test_a_cut_file_gives_the_frames_before_the_cut_and_a_note(tmp_path) -> None:
    data = write_video(tmp_path / "whole.avi", np.arange(20) / 25).read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(data[: (data.find(b"movi") + data.find(b"idx1")) // 2])
    source = VideoFile(cut)
    found = [index for index, _ in read_ahead(source, range(100))]
    assert 0 < len(found) < 20
    assert any("can be decoded" in note or "damaged behind" in note for note in source.notes)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0\0\0\x20ftypisom" + bytes(40), r"cannot be opened as a video: cut off"),
        (b"#EXTM3U\nhttp://example.org/a.ts\n", r"is no video that is read here: starts with"),
        (b"", r"empty file"),
    ],
)
def test_files_that_are_no_video_are_refused(tmp_path, data, message) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        open_frames(path)


def test_frame_size_that_changes_is_refused_where_it_changes(tmp_path) -> None:
    from PIL import Image

    for index, size in enumerate([(48, 64), (48, 64), (30, 40)]):
        Image.fromarray(_frame(index, size)).save(tmp_path / f"f{index + 8}.png")
    source = open_frames(tmp_path)
    assert [file.name for file in source.files] == ["f8.png", "f9.png", "f10.png"]
    frames = read_ahead(source, range(3))
    assert [next(frames)[0], next(frames)[0]] == [0, 1]
    with pytest.raises(InputError, match=r"frame 2 has 30 x 40 pixels .* the first frame 48 x 64"):
        next(frames)


def test_a_folder_without_pictures_and_a_single_picture_are_refused(tmp_path) -> None:
    from PIL import Image

    path = tmp_path / "one.png"
    Image.fromarray(_frame(0)).save(path)
    with pytest.raises(InputError, match="is a single picture, a sequence is needed"):
        open_frames(path)
    with pytest.raises(InputError, match=r"array of shape \(3, 4\) is no sequence"):
        open_frames(np.zeros((3, 4)))


def test_overlay_keeps_size_times_and_tint(tmp_path) -> None:
    path, mask = tmp_path / "overlay.mp4", np.zeros((48, 64), bool)
    mask[30:40, 30:50] = True
    with OverlayWriter(path) as writer:
        for time_s in (0.0, 0.1, 0.15, 0.4):
            writer.write(Picture(np.full((48, 64), 40, np.uint8)), {0: mask}, time_s)
    source = VideoFile(path)
    frames = [picture.array for _, picture in read_ahead(source, range(9))]
    assert [source.time_s(i) for i in range(4)] == pytest.approx([0, 0.1, 0.15, 0.4], abs=1e-3)
    assert frames[2][35, 40, 0] > frames[2][35, 40, 2] + 40
    assert abs(int(frames[2][10, 10, 0]) - 40) < 12


def test_nothing_is_left_of_an_overlay_that_failed(tmp_path) -> None:
    def fail() -> None:
        with OverlayWriter(tmp_path / "o.mp4") as writer:
            writer.write(Picture(_frame(0)), {})
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert list(tmp_path.iterdir()) == []
