import threading

import numpy as np
import pytest
import torch

from segkit.data.volume import Volume
from segkit.errors import InputError
from segkit.geometry import Geometry
from segkit.models import build
from segkit.predictors.video import VideoPredictor


@pytest.fixture(scope="module")
def predictor() -> VideoPredictor:
    return VideoPredictor(build.sam2_test.tracker(image_size=64), device="cpu")


@pytest.fixture
def frames() -> np.ndarray:
    """A bright disk that moves to the right by two pixels per frame."""
    rows, columns = np.mgrid[:48, :64]
    return np.stack(
        [
            np.where((rows - 24) ** 2 + (columns - 12 - 2 * t) ** 2 < 64, 220, 40).astype(np.uint8)
            for t in range(12)
        ]
    )


def _run(session, **options):
    return {found.frame: found for found in session.propagate(**options)}


def _marked(session):
    session.add_points([(24, 12)], [1], frame=0)
    return session


def _pointers(session, object_id=1):
    """What the memory keeps of an object on each frame: tells runs apart where masks may agree."""
    return [masks[object_id].pointer for _, masks in session.track.frames() if object_id in masks]


def test_propagate_gives_every_object_on_every_frame(predictor, frames) -> None:
    session = predictor.open(frames)
    session.add_points([(24, 12)], [1], frame=0, object_id=1)
    session.add_box(((10, 30), (30, 50)), frame=3, object_id=9)
    found = _run(session)
    assert sorted(found) == list(range(12))
    assert all(set(one.masks) == {1, 9} for one in found.values())
    assert found[5].masks[1].shape == (48, 64)
    assert found[5].masks[1].dtype == bool
    np.testing.assert_array_equal(found[5].masks[9], session.mask(5, 9))


def test_marking_another_object_leaves_the_first_untouched(predictor, frames) -> None:
    alone, together = predictor.open(frames), predictor.open(frames)
    for session in (alone, together):
        session.add_points([(24, 12)], [1], frame=0, object_id=1)
    together.add_points([(10, 50)], [1], frame=4, object_id=2)
    first, second = _run(alone), _run(together)
    for frame in range(12):
        np.testing.assert_array_equal(first[frame].masks[1], second[frame].masks[1])
    for one, other in zip(_pointers(alone), _pointers(together), strict=True):
        np.testing.assert_allclose(
            np.frombuffer(one, np.float32), np.frombuffer(other, np.float32), atol=1e-4
        )


def test_live_frames_give_the_masks_of_a_file(predictor, frames) -> None:
    session = predictor.open(frames)
    session.add_points([(24, 12)], [1], frame=0)
    expected = _run(session)
    live = predictor.open(None)
    assert live.push(frames[0]) == {}
    live.add_points([(24, 12)], [1])
    for index, frame in enumerate(frames[1:], start=1):
        masks = live.push(frame, time_s=index / 25)
        np.testing.assert_array_equal(masks[1], expected[index].masks[1])
    assert _pointers(live) == _pointers(session)
    assert live.source.time_s(11) == 11 / 25


def test_backwards_from_the_last_frame(predictor, frames) -> None:
    session = predictor.open(frames)
    session.add_points([(24, 34)], [1], frame=11)
    found = [one.frame for one in session.propagate(reverse=True)]
    assert found == list(range(11, -1, -1))
    forward = predictor.open(frames[::-1].copy())
    forward.add_points([(24, 34)], [1], frame=0)
    mirrored = _run(forward)
    for frame in range(12):
        np.testing.assert_array_equal(session.mask(frame), mirrored[11 - frame].masks[1])


def test_correction_of_a_tracked_frame_counts_in_the_next_pass(predictor, frames) -> None:
    session = predictor.open(frames)
    session.add_points([(24, 12)], [1], frame=0)
    _run(session)
    before = _pointers(session)
    corrected = session.add_points([(40, 50)], [1], frame=6)
    assert (1, 6) in session.marked
    after = _run(session)
    np.testing.assert_array_equal(after[6].masks[1], corrected)
    assert all(before[t] != _pointers(session)[t] for t in range(6, 12))


def test_correction_of_the_latest_frame_needs_no_encoding_of_earlier_ones(
    predictor, frames, monkeypatch
) -> None:
    live = predictor.open(None)
    live.push(frames[0])
    live.add_points([(24, 12)], [1])
    for frame in frames[1:]:
        live.push(frame)
    read = []
    monkeypatch.setattr(live.source, "read", lambda index: read.append(index))
    live.add_points([(40, 50)], [0])
    assert read == []


def test_correction_far_back_encodes_six_frames_again(predictor, frames, monkeypatch) -> None:
    long = np.concatenate([frames, frames, frames])
    session = predictor.open(long)
    session.add_points([(24, 12)], [1], frame=0)
    _run(session)
    original, encoded = session._tracker.encode, []
    monkeypatch.setattr(
        session._tracker, "encode", lambda image: encoded.append(1) or original(image)
    )
    session.add_points([(40, 50)], [0], frame=10)
    # the frame itself, and twice the six before it: for its logits, and for the correction
    assert 7 <= len(encoded) <= 14


def test_mask_prompt_is_kept_as_it_is(predictor, frames) -> None:
    session = predictor.open(frames)
    given = frames[0] > 128
    np.testing.assert_array_equal(session.add_mask(given, frame=0), given)
    assert _run(session)[0].masks[1].sum() == given.sum()


def test_undo_clear_remove_and_reset(predictor, frames) -> None:
    session = predictor.open(frames)
    one = session.add_points([(24, 12)], [1], frame=0)
    session.add_points([(5, 5)], [0], frame=0)
    np.testing.assert_array_equal(session.undo().mask(0), one)
    session.add_points([(24, 40)], [1], frame=2, object_id=2)
    session.clear(2, 2)
    with pytest.raises(InputError, match=r"object 2 has no marks on frame 2; marked"):
        session.clear(2, 2)
    assert session.remove(2).objects == (1,)
    with pytest.raises(InputError, match=r"there is no object 2; objects: \[1\]"):
        session.remove(2)
    assert session.reset().objects == ()
    assert session.undo().objects == ()


def test_second_click_refines_the_first_and_undo_is_exact(predictor, frames) -> None:
    session = predictor.open(frames)
    session.add_points([(24, 12)], [1], frame=0)
    session.add_points([(30, 30)], [0], frame=0)
    reference = _pointers(session)
    session.add_points([(8, 8)], [1], frame=0)
    assert _pointers(session) != reference
    assert _pointers(session.undo()) == reference


def test_cancel_keeps_what_is_done_and_the_session_goes_on(predictor, frames) -> None:
    reference = predictor.open(frames)
    reference.add_points([(24, 12)], [1], frame=0)
    expected = _run(reference)
    session = predictor.open(frames)
    session.add_points([(24, 12)], [1], frame=0)
    seen = []
    for found in session.propagate():
        seen.append(found.frame)
        if found.frame == 4:
            threading.Thread(target=session.cancel).start()
            while not session._cancelled.is_set():
                pass
    assert seen == [0, 1, 2, 3, 4]
    rest = _run(session, start=5)
    for frame in range(5, 12):
        np.testing.assert_array_equal(rest[frame].masks[1], expected[frame].masks[1])


def test_objects_come_and_go_between_the_frames_of_a_pass(predictor, frames) -> None:
    session = _marked(predictor.open(frames))
    session.add_box(((10, 30), (30, 50)), frame=0, object_id=2)
    seen = {}
    for found in session.propagate():
        seen[found.frame] = sorted(found.masks)
        if found.frame == 3:
            session.remove(2)
        if found.frame == 6:
            session.add_points([(10, 50)], [1], frame=6, object_id=3)
    assert [seen[frame] for frame in (3, 4, 6, 7, 11)] == [[1, 2], [1], [1], [1, 3], [1, 3]]
    # the others do not notice
    alone = _run(_marked(predictor.open(frames)))
    for frame in range(12):
        np.testing.assert_array_equal(session.mask(frame), alone[frame].masks[1])


def test_a_pass_ends_with_its_last_object(predictor, frames) -> None:
    session = _marked(predictor.open(frames))
    visited = []
    for found in session.propagate():
        visited.append(found.frame)
        if found.frame == 3:
            session.remove(1)
    assert visited == [0, 1, 2, 3]


def test_marks_made_at_a_pause_count_once_the_pass_goes_on(predictor, frames) -> None:
    """Undoing them later would forget the frames behind them."""
    session = _marked(predictor.open(frames))
    for found in session.propagate():
        if found.frame == 4:
            session.add_points([(24, 30)], [1], frame=4)
        if found.frame == 6:
            memory = session.memory_bytes
            session.undo()
    assert session.memory_bytes >= memory
    assert session.marked == ((1, 0), (1, 4))


def test_a_pass_does_not_go_on_behind_another_one(predictor, frames) -> None:
    session = _marked(predictor.open(frames))
    first = session.propagate()
    assert [next(first).frame for _ in range(3)] == [0, 1, 2]
    assert len(_run(session)) == 12
    with pytest.raises(InputError, match=r"another pass has begun since frame 2; .*start=3"):
        next(first)
    assert list(_run(session, start=3)) == list(range(3, 12))


def test_results_are_those_of_all_passes_in_order(predictor, frames) -> None:
    session = predictor.open(frames)
    session.add_points([(24, 22)], [1], frame=5)
    passes = {**_run(session), **_run(session, start=4, reverse=True)}
    results = list(session.results())
    assert [one.frame for one in results] == list(range(12))
    for one in results:
        np.testing.assert_array_equal(one.masks[1], passes[one.frame].masks[1])


def test_arrays_of_points_and_numbers_of_numpy_are_taken(predictor, frames) -> None:
    session = predictor.open(frames)
    session.add_points(np.array([[24, 12]]), np.array([1]), frame=np.int64(0))
    assert session.marked == ((1, 0),)
    assert type(session.marked[0][1]) is int


def test_leaving_the_loop_ends_the_reading_thread(predictor, frames) -> None:
    session = predictor.open(frames)
    session.add_points([(24, 12)], [1], frame=0)
    for _ in session.propagate():
        break
    assert not [one for one in threading.enumerate() if one.name == "segkit-frames"]


def test_object_lost_for_100_frames_gives_empty_masks_and_can_be_marked_again(
    predictor, frames
) -> None:
    session = predictor.open(np.concatenate([frames[:1]] * 104))
    session.add_points([(24, 12)], [1], frame=0)
    head = predictor.tracker.decoder.module.pred_obj_score_head.layers[-1]
    with torch.no_grad():
        head.bias.sub_(1000)
    try:
        found = _run(session)
    finally:
        with torch.no_grad():
            head.bias.add_(1000)
    assert all(not found[t].masks[1].any() and found[t].scores[1] == 0 for t in range(1, 104))
    again = session.add_points([(24, 12)], [1], frame=103)
    assert again.shape == (48, 64)
    assert _run(session, start=103)[103].masks[1].sum() == again.sum()


def test_volume_is_a_sequence_along_any_axis(predictor) -> None:
    array = np.random.default_rng(0).integers(0, 900, (5, 20, 24), dtype=np.int16)
    volume = Volume(array, Geometry.from_spacing((5, 20, 24), (4.0, 0.5, 0.8)))
    default, sagittal = predictor.open(volume), predictor.open(volume, axis=2)
    assert (default.source.count, default.source.size) == (5, (20, 24))
    assert default.source.spacing_mm == (0.5, 0.8)
    assert (sagittal.source.count, sagittal.source.size) == (24, (5, 20))
    assert sagittal.source.spacing_mm == (4.0, 0.5)
    with pytest.raises(InputError, match=r"axis 3 does not exist; give 0 \(k\), 1 \(j\) or 2"):
        predictor.open(volume, axis=3)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda s: list(s.propagate()), r"no object to track; mark one"),
        (lambda s: s.add_points([], [], frame=0), r"no point was given"),
        (lambda s: s.add_points([(1, 1)], [1], frame=12), r"no frame 12: the sequence has 12"),
        (lambda s: s.add_points([(48, 1)], [1], frame=0), r"point \(48, 1\).*outside the image"),
        (lambda s: s.add_box(((4, 4), (4, 9)), frame=0), r"has no extent along row"),
        (lambda s: s.add_mask(np.ones((3, 3), bool)), r"mask prompt has shape \(3, 3\)"),
        (lambda s: s.mask(3), r"object 1 has no mask on frame 3; mark it there"),
        (lambda s: s.push(np.zeros((48, 64), np.uint8)), r"frames cannot be pushed"),
        (lambda s: s.add_points([(1, 1)], [1], frame=1.5), r"frames have whole numbers, got 1\.5"),
        (lambda s: _run(_marked(s), count=-1), r"count must be >= 0 frames, got -1"),
    ],
)
def test_faults_are_explained_and_leave_the_session_usable(predictor, frames, act, message) -> None:
    session = predictor.open(frames)
    with pytest.raises(InputError, match=message):
        act(session)
    assert session.add_points([(24, 12)], [1], frame=0).shape == (48, 64)
    assert len(_run(session)) == 12


def test_live_faults(predictor, frames) -> None:
    live = predictor.open(None)
    with pytest.raises(InputError, match=r"no frame 0: no frame has been pushed yet"):
        live.add_points([(1, 1)], [1])
    for frame in frames:
        live.push(frame)
    with pytest.raises(InputError, match=r"no frame 20: the sequence has 12 frames"):
        live.add_points([(1, 1)], [1], frame=20)
    with pytest.raises(
        InputError, match=r"frame 0 .* no longer kept; mark one of the latest: 4 to"
    ):
        live.add_points([(1, 1)], [1], frame=0)
    with pytest.raises(InputError, match=r"frame 12 has 10 x 10 pixels"):
        live.push(np.zeros((10, 10), np.uint8))
    with pytest.raises(InputError, match=r"shape \(4,\) is no frame"):
        live.push(np.zeros(4, np.uint8))
    live.add_points([(24, 34)], [1])
    assert set(live.push(frames[0])) == {1}


def test_calls_of_sam2_give_the_masks_of_our_own(predictor, frames) -> None:
    session = predictor.open(frames)
    session.add_points([(24, 12)], [1], frame=0, object_id=5)
    session.add_box(((10, 30), (31, 51)), frame=0, object_id=6)
    expected = _run(session)
    state = predictor.init_state(frames)
    predictor.add_new_points_or_box(state, 0, 5, points=[[12, 24]], labels=[1])
    _, ids, _ = predictor.add_new_points_or_box(state, 0, 6, box=[30, 10, 50, 30])
    assert ids == [5, 6]
    for frame, ids, logits in predictor.propagate_in_video(state):
        for row, one in enumerate(ids):
            np.testing.assert_array_equal(logits[row, 0] > 0, expected[frame].masks[one])
    assert predictor.remove_object(state, 5) == [6]
    predictor.clear_all_prompts_in_frame(state, 0, 6)
    predictor.add_new_mask(state, 0, 6, frames[0] > 128)
    predictor.reset_state(state)
    assert state.objects == ()
    with pytest.raises(InputError, match="neither points nor a box"):
        predictor.add_new_points_or_box(state, 0, 5)


def test_memory_does_not_grow_with_the_sequence(predictor, frames) -> None:
    live = predictor.open(None)
    live.push(frames[0])
    live.add_points([(24, 12)], [1])
    sizes = []
    for t in range(60):
        live.push(frames[t % 12])
        sizes.append(live.memory_bytes)
    assert len(set(sizes[20:])) == 1
    assert live.track.n_bytes / len(live.track) <= 16_000


def test_from_pretrained_names_models_that_can_track() -> None:
    assert VideoPredictor.from_pretrained("sam2_test", device="cpu").tracker.memory is not None
    with pytest.raises(InputError, match=r"sam_tiny.* has no memory; it cannot track"):
        VideoPredictor.from_pretrained("sam_tiny", device="cpu")
