"""Volumes in, masks on exactly their grid out."""

import itertools
import threading
from collections.abc import Callable

import nibabel
import numpy as np
import pytest
import SimpleITK
import torch

from segkit.data.volume import Volume
from segkit.errors import DataWarning, InputError
from segkit.geometry import Geometry
from segkit.models import build
from segkit.predictors import VolumePredictor
from segkit.predictors.session import Session
from segkit.predictors.slice_engine import SliceEngine

SHAPE = (5, 18, 22)


def a_volume(seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> Volume:
    """Bright ellipsoid in noise; the largest spacing is along k."""
    k, j, i = np.indices(shape)
    centre = np.array(shape) * [0.5, 0.4, 0.6]
    radii = np.array(shape) * [0.6, 0.25, 0.3]
    inside = sum(((axis - c) / r) ** 2 for axis, c, r in zip((k, j, i), centre, radii, strict=True))
    noise = np.random.default_rng(seed).normal(0, 20, shape)
    array = (np.where(inside < 1, 300, 100) + noise).astype(np.int16)
    affine = np.diag([0.8, 0.9, 3.0, 1.0])
    affine[:3, 3] = (-50, -40, 10)
    return Volume(array, Geometry(shape, affine))


@pytest.fixture(scope="module")
def automatic() -> VolumePredictor:
    torch.manual_seed(0)
    return VolumePredictor(build.sam_tiny(classes=2), device="cpu")


@pytest.fixture(scope="module")
def interactive() -> VolumePredictor:
    torch.manual_seed(0)
    return VolumePredictor(build.sam_tiny(), device="cpu")


def stored_as(volume: Volume, axes: tuple[int, ...], flips: tuple[bool, ...]) -> Volume:
    """The same anatomy with its array axes swapped and flipped."""
    array = volume.array.transpose(axes)
    affine = volume.geometry.affine.copy()
    ijk = [2 - axis for axis in axes][::-1]
    affine = affine[:, [*ijk, 3]]
    for axis, flip in enumerate(flips):
        if flip:
            column = 2 - axis
            affine[:, 3] += affine[:, column] * (array.shape[axis] - 1)
            affine[:, column] *= -1
            array = np.flip(array, axis)
    return Volume(np.ascontiguousarray(array), Geometry(array.shape, affine))


ORIENTATIONS = list(
    itertools.product(itertools.permutations(range(3)), itertools.product((False, True), repeat=3))
)


@pytest.mark.parametrize(("axes", "flips"), ORIENTATIONS)
def test_same_anatomy_is_labelled_in_each_of_48_orientations(
    automatic: VolumePredictor, axes: tuple[int, ...], flips: tuple[bool, ...]
) -> None:
    volume = a_volume()
    expected = automatic.segment(volume).transpose(axes)
    expected = np.flip(expected, [axis for axis, flip in enumerate(flips) if flip])
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(automatic.segment(stored_as(volume, axes, flips)), expected)


@pytest.mark.parametrize(("axes", "flips"), ORIENTATIONS[::7])
def test_click_in_millimetres_marks_the_same_anatomy_in_any_orientation(
    interactive: VolumePredictor, axes: tuple[int, ...], flips: tuple[bool, ...]
) -> None:
    volume = a_volume()
    point = volume.geometry.to_world_mm(np.array([[2.0, 7.0, 13.0]])).tolist()
    expected = interactive.open(volume).add_points(point, [1], space="ras").mask()
    turned = stored_as(volume, axes, flips)
    found = interactive.open(turned).add_points(point, [1], space="ras").mask()
    undone = np.flip(found, [axis for axis, flip in enumerate(flips) if flip])
    np.testing.assert_array_equal(undone.transpose(np.argsort(axes)), expected)


def test_classes_carry_the_values_and_the_shape_of_the_input(automatic: VolumePredictor) -> None:
    labels = automatic.segment(a_volume())
    assert labels.shape == SHAPE
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) <= {0, 1, 2}


def test_volume_may_come_as_simpleitk_nibabel_or_array(automatic: VolumePredictor) -> None:
    volume = a_volume()
    expected = automatic.segment(volume)
    image = SimpleITK.GetImageFromArray(volume.array)
    image.SetSpacing((0.8, 0.9, 3.0))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    image.SetOrigin((50, 40, 10))
    nifti = nibabel.Nifti1Image(volume.array.T, volume.geometry.affine)
    for source in (image, nifti, (volume.array, volume.geometry)):
        np.testing.assert_array_equal(automatic.segment(source), expected)


def test_array_without_geometry_is_refused(automatic: VolumePredictor) -> None:
    with pytest.raises(InputError, match="carries no geometry"):
        automatic.segment(np.zeros(SHAPE))


def test_picture_is_refused_with_the_right_predictor(interactive: VolumePredictor) -> None:
    with pytest.raises(InputError, match=r"picture of size \(30, 40\).*ImagePredictor"):
        interactive.open(np.zeros((30, 40), dtype=np.uint8))


def test_automatic_model_takes_no_prompts(automatic: VolumePredictor) -> None:
    with pytest.raises(InputError, match="without prompts; leave prompts and words out"):
        automatic.open(a_volume())


def test_promptable_model_needs_prompts(interactive: VolumePredictor) -> None:
    with pytest.raises(InputError, match="needs prompts; use open"):
        interactive.segment(a_volume())


def test_box_prompts_each_slice_it_spans_and_no_other(interactive: VolumePredictor) -> None:
    session = interactive.open(a_volume()).add_box(((1, 3, 6), (4, 12, 20)))
    assert sorted(session.scores()) == [1, 2, 3]
    logits = session.logits()
    assert np.isfinite(logits[1:4]).all()
    assert np.isneginf(logits[[0, 4]]).all()


def test_p10_mask_without_prompt_is_refused(interactive: VolumePredictor) -> None:
    with pytest.raises(InputError, match="no prompt given; add a point"):
        interactive.open(a_volume()).mask()


def test_p09_only_background_clicks_give_an_empty_mask_and_a_warning(
    interactive: VolumePredictor,
) -> None:
    session = interactive.open(a_volume()).add_points([(2, 7, 13)], [0])
    with pytest.warns(DataWarning, match="only background marks"):
        assert not session.mask().any()


def test_p11_ten_thousand_clicks_are_decoded_in_rounds(interactive: VolumePredictor) -> None:
    volume = a_volume(shape=(2, 100, 120))
    rows, columns = np.divmod(np.arange(10_000), 120)
    clicks = [(0, int(r), int(c)) for r, c in zip(rows, columns, strict=True)]
    mask = interactive.open(volume).add_points(clicks, [1] * len(clicks)).mask()
    assert mask.shape == volume.array.shape


def test_p15_mask_prompt_of_wrong_shape_or_type_is_refused(interactive: VolumePredictor) -> None:
    session = interactive.open(a_volume())
    with pytest.raises(InputError, match=r"shape \(5, 18, 21\).*give a bool array of shape"):
        session.add_mask(np.zeros((5, 18, 21), dtype=bool))
    with pytest.raises(InputError, match="type uint8"):
        session.add_mask(np.zeros(SHAPE, dtype=np.uint8))


def test_p16_interrupted_decoding_leaves_the_state_before(
    interactive: VolumePredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = interactive.open(a_volume()).add_points([(2, 7, 13)], [1])
    before = session.mask()
    session.add_points([(2, 3, 3)], [0])
    with monkeypatch.context() as patched:
        patched.setattr(session._engine, "refine", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            session.mask()
    np.testing.assert_array_equal(session.mask(), before)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_p18_undo_beyond_the_first_prompt_does_nothing(interactive: VolumePredictor) -> None:
    session = interactive.open(a_volume()).undo().add_points([(2, 7, 13)], [1])
    assert session.undo().undo().undo() is session
    with pytest.raises(InputError, match="no prompt given"):
        session.mask()


def test_undo_returns_exactly_to_the_mask_before(interactive: VolumePredictor) -> None:
    session = interactive.open(a_volume()).add_points([(2, 7, 13)], [1])
    first = session.logits()
    session.add_points([(2, 2, 2)], [0]).add_box(((1, 3, 6), (4, 12, 20)))
    session.logits()
    np.testing.assert_array_equal(session.undo().undo().logits(), first)


def test_result_depends_on_the_calls_and_not_on_who_looked_between(
    interactive: VolumePredictor,
) -> None:
    def play(look: Callable[[Session], object]) -> np.ndarray:
        session = interactive.open(a_volume()).add_points([(2, 7, 13)], [1])
        look(session)
        return session.add_points([(2, 2, 2)], [0]).logits()

    np.testing.assert_array_equal(play(lambda session: session.mask()), play(lambda _: None))


def test_second_click_refines_the_mask_of_the_first(interactive: VolumePredictor) -> None:
    volume = a_volume()
    together = interactive.open(volume).add_points([(2, 7, 13), (2, 2, 2)], [1, 0]).logits()
    in_turn = interactive.open(volume).add_points([(2, 7, 13)], [1])
    in_turn = in_turn.add_points([(2, 2, 2)], [0]).logits()
    assert not np.array_equal(together, in_turn)


def test_given_mask_comes_back_until_a_click_refines_its_slice(
    interactive: VolumePredictor,
) -> None:
    given = np.zeros(SHAPE, dtype=bool)
    given[1:3, 4:9, 5:15] = True
    session = interactive.open(a_volume()).add_mask(given)
    np.testing.assert_array_equal(session.mask(), given)
    refined = session.add_points([(1, 6, 9)], [1]).mask()
    np.testing.assert_array_equal(refined[2], given[2])
    assert not np.array_equal(session.logits()[1] > 0, np.zeros(SHAPE[1:], dtype=bool))


def test_uncertainty_is_entropy_in_bits(interactive: VolumePredictor) -> None:
    session = interactive.open(a_volume()).add_points([(2, 7, 13)], [1])
    uncertainty = session.uncertainty()
    assert uncertainty[2].max() <= 1
    assert uncertainty[2].min() > 0
    assert (uncertainty[[0, 1, 3, 4]] == 0).all()
    near = np.abs(session.logits()[2]).argmin()
    assert uncertainty[2].reshape(-1)[near] == uncertainty.max()


def test_embeddings_stay_within_the_budget_and_are_reused(
    interactive: VolumePredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = interactive.open(a_volume(shape=(9, 18, 22)))
    assert isinstance(session._engine, SliceEngine)
    slices = session._engine.slices
    encoded: list[int] = []
    encode = slices.encode
    monkeypatch.setattr(slices, "encode", lambda chosen: encoded.extend(chosen) or encode(chosen))
    session.add_points([(2, 7, 13)], [1]).mask()
    session.add_points([(2, 2, 2)], [0]).mask()
    assert encoded == [2]
    one = sum(level.numel() * 4 for level in slices.features(2).levels)
    slices.cache_bytes = 3 * one
    session.add_box(((0, 2, 2), (9, 12, 12))).mask()
    assert len(slices._cache) == 3


def test_one_predictor_serves_sessions_from_several_threads(interactive: VolumePredictor) -> None:
    volumes = [a_volume(seed) for seed in range(4)]
    expected = [
        interactive.open(volume).add_points([(2, 7, 13)], [1]).logits() for volume in volumes
    ]
    found: dict[int, np.ndarray] = {}

    def work(number: int) -> None:
        session = interactive.open(volumes[number]).add_points([(2, 7, 13)], [1])
        found[number] = session.logits()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, logits in found.items():
        np.testing.assert_allclose(logits, expected[number], rtol=1e-5, atol=1e-5)
    assert len(found) == 4


def test_unknown_device_lists_the_allowed_ones() -> None:
    with pytest.raises(InputError, match="device 'tpu9' is not available; allowed: 'auto'"):
        VolumePredictor(build.sam_tiny(), device="tpu9")
