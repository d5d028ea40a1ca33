"""What a person does in a session, with a model whose answers are known."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkit.data.readers import load
from segkit.data.volume import Volume
from segkit.errors import InputError
from segkit.predictors import VolumePredictor
from segkit.predictors.session import Session
from segkit.predictors.watch import CancelledError

Make = Callable[..., Any]
SHAPE = (6, 40, 40)
LEFT, RIGHT = ((1, 5, 5), (5, 15, 15)), ((1, 5, 22), (5, 18, 34))
IN_LEFT, IN_RIGHT = (2, 10, 10), (2, 10, 28)


@pytest.fixture
def session(bright: Make, a_scan: Make) -> Session:
    return bright().open(a_scan(SHAPE, LEFT, RIGHT))


def voxels(box: tuple[tuple[int, ...], tuple[int, ...]], *slices: int) -> np.ndarray:
    inside = np.zeros(SHAPE, dtype=bool)
    inside[tuple(slice(a, b) for a, b in zip(*box, strict=True))] = True
    keep = np.isin(np.arange(SHAPE[0]), slices)
    return inside & keep[:, None, None]


def box_of(mask: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    at = np.argwhere(mask)
    if not len(at):
        return None
    return tuple(map(int, at.min(axis=0))), tuple(map(int, at.max(axis=0) + 1))


def test_objects_share_embeddings_and_keep_their_own_prompts(bright: Make, a_scan: Make) -> None:
    predictor = bright()
    left = predictor.open(a_scan(SHAPE, LEFT, RIGHT)).add_points([IN_LEFT], [1])
    right = left.object("right").add_points([IN_RIGHT], [1])
    np.testing.assert_array_equal(left.mask(), voxels(LEFT, 2))
    np.testing.assert_array_equal(right.mask(), voxels(RIGHT, 2))
    assert predictor.model.encoded == 1
    assert left.object("right") is right
    assert [one.name for one in right.objects] == ["object", "right"]


def test_labels_give_each_voxel_to_one_object(session: Session) -> None:
    other = session.object("both").add_box(((2, 0, 0), (3, 40, 40)))
    session.add_mask(voxels(LEFT, 2))  # surer than the model
    labels = other.labels()
    np.testing.assert_array_equal(labels == 1, voxels(LEFT, 2))
    np.testing.assert_array_equal(labels == 2, voxels(RIGHT, 2))
    np.testing.assert_array_equal(other.mask(), voxels(LEFT, 2) | voxels(RIGHT, 2))


def test_objects_are_saved_with_their_names(session: Session, tmp_path: Path) -> None:
    session.name = "left kidney"
    session.add_points([IN_LEFT], [1])
    session.object("unused")
    session.object("right kidney").add_points([IN_RIGHT], [1])
    saved = load(session.save(tmp_path / "both.seg.nrrd"))
    assert dict(saved.labels) == {1: "left kidney", 2: "right kidney"}
    np.testing.assert_array_equal(saved.array == 2, voxels(RIGHT, 2))


def test_labels_without_any_prompt_are_refused(session: Session) -> None:
    with pytest.raises(InputError, match="no prompt given"):
        session.labels()


def test_redo_repeats_until_something_else_is_added(session: Session) -> None:
    session.add_points([IN_LEFT], [1]).add_points([IN_RIGHT], [1])
    both = session.mask()
    assert session.undo().mask().sum() < both.sum()
    np.testing.assert_array_equal(session.redo().redo().mask(), both)
    session.undo().add_points([(3, 10, 10)], [1])
    after = session.mask()
    np.testing.assert_array_equal(session.redo().mask(), after)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_changed_box_is_the_box_of_the_difference(bright: Make, a_scan: Make, axis: int) -> None:
    volume = a_scan(SHAPE, LEFT, RIGHT)
    # stored with two axes reversed: the box counts in the array of the file
    turned = Volume(volume.array, volume.geometry.reoriented("LPS")[1])
    session, before = bright().open(turned, axis=axis), np.zeros(SHAPE, dtype=bool)
    for act in (
        lambda: session.add_points([IN_LEFT], [1]),
        lambda: session.add_box(((1, 4, 20), (4, 20, 36))),
        session.undo,
        session.redo,
        lambda: session.add_points([IN_RIGHT], [0]),
    ):
        act()
        after = session.mask()
        assert session.changed_box() == box_of(before ^ after)
        assert session.changed_box() == box_of(before ^ after)
        before = after
    session.reset()
    assert session.changed_box() == box_of(before)


def test_changed_box_spans_all_that_was_added_since_the_last_look(session: Session) -> None:
    session.add_points([IN_LEFT], [1]).add_points([IN_RIGHT], [1])
    assert session.changed_box() == ((2, 5, 5), (3, 18, 34))
    session.add_points([(3, 10, 10)], [1]).undo()
    assert session.changed_box() is None


def test_scribble_prompts_each_slice_it_crosses(session: Session) -> None:
    drawn = np.zeros(SHAPE, dtype=bool)
    drawn[2:4, 10, 7:13] = True
    np.testing.assert_array_equal(session.add_scribble(drawn).mask(), voxels(LEFT, 2, 3))


def test_polyline_is_a_scribble_through_its_vertices(session: Session) -> None:
    line = [(1, 10, 10), (4, 10, 10)]
    np.testing.assert_array_equal(session.add_scribble(line).mask(), voxels(LEFT, 1, 2, 3, 4))
    session.add_scribble([(2, 10, 9)], label=0)
    np.testing.assert_array_equal(session.mask(), voxels(LEFT, 1, 3, 4))


def test_scribble_of_many_voxels_becomes_few_clicks(bright: Make, a_scan: Make) -> None:
    predictor = bright()
    session = predictor.open(a_scan(SHAPE, LEFT))
    session.add_scribble(voxels(LEFT, 2)).mask()
    (prompts,) = predictor.model.seen
    assert prompts.labels.shape[1] == 8
    assert len(np.unique(prompts.points[0].numpy(), axis=0)) == 8


def test_lasso_selects_what_it_encloses(session: Session) -> None:
    polygon = [(2, 3, 3), (2, 3, 17), (2, 17, 17), (2, 17, 3)]
    np.testing.assert_array_equal(session.add_lasso(polygon).mask(), voxels(LEFT, 2))
    around = voxels(((0, 3, 20), (6, 20, 36)), 2)
    session.add_lasso(around)
    np.testing.assert_array_equal(session.mask(), voxels(LEFT, 2) | voxels(RIGHT, 2))


def test_negative_lasso_and_box_take_away(session: Session) -> None:
    session.add_box(((2, 0, 0), (4, 40, 40)))
    polygon = [(2, 3, 20), (2, 3, 36), (2, 20, 36), (2, 20, 20)]
    session.add_lasso(polygon, label=0)
    np.testing.assert_array_equal(session.mask(), voxels(LEFT, 2, 3) | voxels(RIGHT, 3))
    session.add_box(((3, 4, 20), (4, 20, 36)), label=0)
    np.testing.assert_array_equal(session.mask(), voxels(LEFT, 2, 3))


def test_lasso_across_the_slices_marks_each_of_them(session: Session) -> None:
    """A curve drawn in a plane that holds k: the model of slices along k gets clicks."""
    polygon = [(1, 10, 6), (1, 10, 14), (4, 10, 14), (4, 10, 6)]
    assert sorted(session.add_lasso(polygon).scores()) == [1, 2, 3]
    np.testing.assert_array_equal(session.mask(), voxels(LEFT, 1, 2, 3))


@pytest.mark.parametrize(
    ("drawing", "message"),
    [
        ([(1, 2, 3), (2, 9, 3), (1, 9, 9)], r"lies on one slice; this one spans \[1.0, 7.0, 6.0\]"),
        ([(2, 5, 5), (2, 5, 9)], "encloses no voxel"),
        ([], "the drawing has no vertices"),
        ([(9, 5, 5), (9, 5, 9), (9, 9, 9)], "lies outside the image"),
        (np.zeros(SHAPE, dtype=bool), "the lasso is empty"),
        (np.ones((2, 2, 2), dtype=bool), r"lasso has shape \(2, 2, 2\); give a bool array"),
    ],
)
def test_unusable_lassos_are_refused(session: Session, drawing: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        session.add_lasso(drawing)  # type: ignore[arg-type]
    assert not session.has_prompts


def test_unusable_scribbles_are_refused(session: Session) -> None:
    with pytest.raises(InputError, match="the scribble is empty; draw at least one voxel"):
        session.add_scribble(np.zeros(SHAPE, dtype=bool))
    with pytest.raises(
        InputError, match="must be 1 \\(object\\) or 0 \\(background\\), got \\[3\\]"
    ):
        session.add_scribble([(2, 5, 5)], label=3)


def test_p16_cancelled_session_is_as_before_the_prompt(session: Session) -> None:
    before = session.add_points([IN_LEFT], [1]).mask()
    session.add_box(((1, 4, 20), (5, 20, 36)))
    seen: list[tuple[int, int]] = []
    with pytest.raises(CancelledError, match="stopped after 2 of 4 steps"):
        session.update(
            progress=lambda done, total: seen.append((done, total)),
            cancel=lambda: len(seen) >= 2,
        )
    assert seen == [(0, 4), (1, 4)]
    np.testing.assert_array_equal(session.mask(), before)
    assert session.changed_box() is None
    session.update(cancel=lambda: True)  # nothing waits, so nothing is stopped


def test_axis_chooses_the_slices(bright: Make, a_scan: Make) -> None:
    volume = a_scan(SHAPE, LEFT, RIGHT)
    mask = bright().open(volume, axis=2).add_points([IN_LEFT], [1]).mask()
    assert box_of(mask) == ((1, 5, 10), (5, 15, 11))


def test_p14_there_is_no_fourth_axis(bright: Make, a_scan: Make) -> None:
    with pytest.raises(InputError, match=r"no slice axis 3 in an image of size \(6, 40, 40\)"):
        bright().open(a_scan(SHAPE), axis=3)


def test_p17_clicks_of_other_threads_wait_and_all_count(session: Session) -> None:
    def work(number: int) -> None:
        session.object(f"object {number % 2}").add_points([(1 + number % 4, 10, 10)], [1]).mask()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(session.objects) == 3
    np.testing.assert_array_equal(session.object("object 0").mask(), voxels(LEFT, 1, 3))
    np.testing.assert_array_equal(session.object("object 1").mask(), voxels(LEFT, 2, 4))


@pytest.mark.parametrize(
    ("shape", "spacing_mm"),
    [
        ((1, 40, 40), (5.0, 1.0, 1.0)),
        ((6, 40, 40), (8.0, 0.3, 0.3)),
        ((40, 6, 40), (1.0, 9.0, 1.0)),
    ],
)
def test_thin_and_anisotropic_volumes_work(
    bright: Make, a_scan: Make, shape: tuple[int, int, int], spacing_mm: tuple[float, ...]
) -> None:
    middle = tuple(size // 2 for size in shape)
    volume = a_scan(shape, ((0, 0, 0), middle), ((0, 0, 0), shape), spacing_mm=spacing_mm)
    mask = bright().open(volume).add_points([middle], [1]).mask()
    thick = int(np.argmax(spacing_mm))
    assert mask.take(middle[thick], axis=thick).all()
    assert mask.sum() == np.prod(shape) / shape[thick]


def test_background_everywhere_gives_an_empty_mask(bright: Make, a_scan: Make) -> None:
    session = bright().open(a_scan(SHAPE)).add_points([IN_LEFT], [1])
    assert not session.mask().any()
    assert session.changed_box() is None


def test_given_mask_that_is_empty_is_an_empty_mask(session: Session) -> None:
    session.add_points([IN_LEFT], [1]).add_mask(np.zeros(SHAPE, dtype=bool))
    assert not session.mask().any()
    assert session.scores() == {}


def test_real_weights_answer_scribbles_and_lassos(a_scan: Make) -> None:
    predictor = VolumePredictor.from_pretrained("nano", device="cpu")
    session = predictor.open(a_scan((3, 48, 48), ((1, 12, 12), (2, 32, 32))))
    session.add_lasso([(1, 10, 10), (1, 10, 34), (1, 34, 34), (1, 34, 10)])
    found = session.mask()
    truth = np.zeros_like(found)
    truth[1, 12:32, 12:32] = True
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.8
