"""Sequences that are damaged or odd: what a pass gives, and that its session goes on."""

import threading
import warnings
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from segkit.errors import DataWarning, InputError
from segkit.models import build
from segkit.predictors.video import VideoPredictor

av = pytest.importorskip("av")


@pytest.fixture(scope="module")
def predictor() -> VideoPredictor:
    return VideoPredictor(build.sam2_test.tracker(image_size=64), device="cpu")


def _frame(index: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    image = np.full((*size, 3), 40, np.uint8)
    image[12:28, 2 * index : 2 * index + 16] = 220
    return image


def _video(path, times_s):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 4
        if path.suffix == ".mp4":
            stream.codec_context.time_base = stream.time_base = Fraction(1, 12800)
        for index, time_s in enumerate(times_s):
            frame = av.VideoFrame.from_ndarray(_frame(index), format="rgb24")
            if path.suffix == ".mp4":
                frame.pts, frame.time_base = round(time_s * 12800), stream.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_a_cut_video_ends_the_pass_with_one_warning(predictor, tmp_path) -> None:
    data = _video(tmp_path / "whole.avi", np.arange(20) / 25).read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(data[: (data.find(b"movi") + data.find(b"idx1")) // 2])
    session = predictor.open(cut)
    session.add_points([(20, 8)], [1], frame=0)
    with pytest.warns(DataWarning, match=r"cut\.avi: .*(can be decoded|damaged behind)") as caught:
        found = [one.frame for one in session.propagate()]
    assert found == list(range(len(found)))
    assert 1 < len(found) < 20
    assert len([one for one in caught if one.category is DataWarning]) == len(session.source.notes)
    # the frames that are there can be corrected and passed again, without another warning
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session.add_points([(20, 2 * found[-1] + 8)], [1], frame=found[-1])
        assert [one.frame for one in session.propagate()] == found
        assert [one.frame for one in session.propagate(found[-1], reverse=True)] == found[::-1]
    with pytest.raises(InputError, match=f"no frame {len(found)}: the sequence has {len(found)}"):
        session.add_points([(20, 8)], [1], frame=len(found))


def test_a_frame_of_another_size_ends_the_pass_there(predictor, tmp_path) -> None:
    for index, size in enumerate([(48, 64), (48, 64), (48, 64), (30, 40), (48, 64)]):
        Image.fromarray(_frame(index, size)).save(tmp_path / f"f{index}.png")
    session = predictor.open(tmp_path)
    session.add_points([(20, 8)], [1], frame=0)
    passed = session.propagate()
    assert [next(passed).frame for _ in range(3)] == [0, 1, 2]
    with pytest.raises(InputError, match=r"frame 3 has 30 x 40 pixels .* split the recording"):
        next(passed)
    assert session.mask(2).shape == (48, 64)
    assert not [one for one in threading.enumerate() if one.name == "segkit-frames"]
    session.add_points([(20, 12)], [1], frame=2)
    assert [one.frame for one in session.propagate(count=3)] == [0, 1, 2]
    with pytest.raises(InputError, match="frame 3 has 30 x 40 pixels"):
        session.add_points([(20, 12)], [1], frame=3)
    # what lies behind it is reached from a mark there
    session.add_points([(20, 16)], [1], frame=4)
    assert [one.frame for one in session.propagate(4)] == [4]


def test_a_variable_frame_rate_keeps_its_times(predictor, tmp_path) -> None:
    times = np.cumsum([0, *[0.02, 0.08] * 5])
    session = predictor.open(_video(tmp_path / "clip.mp4", times))
    session.add_points([(20, 8)], [1], frame=0)
    with pytest.warns(DataWarning, match="variable frame rate: 20 to 80 ms between frames"):
        found = list(session.propagate())
    assert [one.time_s for one in found] == pytest.approx(list(times), abs=1e-3)
    assert session.add_box(((12, 0), (28, 16)), frame=0, object_id=2).shape == (48, 64)
    assert set(next(iter(session.propagate())).masks) == {1, 2}


def test_a_mark_on_a_frame_that_no_pass_has_seen_starts_the_object_there(
    predictor, tmp_path
) -> None:
    session = predictor.open(_video(tmp_path / "clip.avi", np.arange(12) / 25))
    session.add_points([(20, 22)], [1], frame=7)
    assert session.source.count is None  # the file has not been read to its end
    assert [one.frame for one in session.propagate()] == [7, 8, 9, 10, 11]
    # from the beginning it is not there yet, and going backwards it is looked for
    from_start = {one.frame: one.masks[1] for one in session.propagate(0, 4)}
    assert list(from_start) == [0, 1, 2, 3]
    back = list(session.propagate(7, reverse=True))
    assert [one.frame for one in back] == list(range(7, -1, -1))


def test_cancelled_from_another_thread_the_pass_ends_and_another_may_follow(
    predictor, tmp_path
) -> None:
    session = predictor.open(_video(tmp_path / "clip.avi", np.arange(12) / 25))
    session.add_points([(20, 8)], [1], frame=0)
    found = []
    for one in session.propagate():
        found.append(one.frame)
        if one.frame == 4:
            thread = threading.Thread(target=session.cancel)
            thread.start()
            thread.join()
    assert found == [0, 1, 2, 3, 4]
    assert not [one for one in threading.enumerate() if one.name == "segkit-frames"]
    before = session.mask(3)
    rest = [one.frame for one in session.propagate(5)]
    assert rest == [5, 6, 7, 8, 9, 10, 11]
    np.testing.assert_array_equal(session.mask(3), before)
