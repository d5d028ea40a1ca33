"""Evaluation on clips: what is read, what the trivial rows answer, and a whole run."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from segkit.adapters import DepthwiseDilated
from segkit.data.clips_sequences import ClipSpec
from segkit.data.datasets import find_cases
from segkit.data.preprocess import InputSpec, Intensity
from segkit.errors import InputError
from segkit.evaluation.clips import RecordingReader
from segkit.evaluation.clips_figures import film_strip
from segkit.evaluation.clips_rows import Sliced, Tracked, copy_ellipse, copy_first
from segkit.evaluation.clips_runner import (
    ClipSettings,
    evaluate_clips,
    mean_metrics,
    measure_clips,
    tracker_of,
)
from segkit.evaluation.samples import SampleReader
from segkit.evaluation.settings import EvaluationSettings, RobustnessPlan, Scoring
from segkit.metrics import case_metrics
from segkit.models import build
from segkit.models.files import save_adapter
from segkit.models.info import ModelInfo

LABELS = {1: "square"}
VIEW = InputSpec(2, 64, "repeat", Intensity("full"))


def write(root, patient, number, mask, *, with_label=True):
    folder = root / "test" / patient
    for kind in ("frames", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask // 2 + 40).save(folder / "frames" / f"{number:04d}.png")
    if with_label:
        Image.fromarray(mask).save(folder / "masks" / f"{number:04d}.png")


@pytest.fixture
def recordings(tmp_path):
    """Two patients: nothing, then a square that moves four pixels; two frames are unlabelled."""
    for row, patient in enumerate("ab"):
        for number in range(1, 6):
            mask = np.zeros((48, 40), np.uint8)
            if number > 1:
                mask[8 + row : 24 + row, 4 * number : 4 * number + 16] = 255
            write(tmp_path, patient, number, mask, with_label=number not in (1, 4))
    return tmp_path


def clips_of(root, **options):
    dataset = find_cases(root, labels=LABELS)
    reader = RecordingReader(SampleReader(LABELS), VIEW, ClipSpec(**options))
    return list(reader.all(dataset.cases["test"]))


def test_a_clip_begins_where_an_object_is_shown(recordings):
    first, second = clips_of(recordings)
    assert (first.id, first.group, first.unit) == ("a", "a", "px")
    assert len(first) == 4
    assert first.reference.shape == (4, 48, 40)
    assert first.is_labelled.tolist() == [True, True, False, True]
    assert first.image(0).shape == (3, 64, 64)
    assert second.reference[0].sum() == 256


def test_a_clip_without_a_second_labelled_frame_is_left_out(tmp_path):
    mask = np.zeros((16, 16), np.uint8)
    mask[4:9, 4:9] = 255
    write(tmp_path, "a", 1, mask)
    write(tmp_path, "a", 2, mask, with_label=False)
    write(tmp_path, "b", 1, mask[::-1].copy())
    write(tmp_path, "b", 2, mask[:, ::-1].copy())
    assert [one.id for one in clips_of(tmp_path)] == ["b"]


def test_frames_of_unequal_size_are_refused(tmp_path):
    for number, side in ((1, 16), (2, 20)):
        mask = np.zeros((side, side), np.uint8)
        mask[4:9, 4:9] = 255
        write(tmp_path, "a", number, mask)
    with pytest.raises(InputError, match="frames of clip 'a' differ in size"):
        clips_of(tmp_path)


def test_the_copied_mask_and_the_copied_ellipse(recordings):
    recording = clips_of(recordings)[0]
    copied = copy_first(recording)
    np.testing.assert_array_equal(copied, np.repeat(recording.reference[:1], 4, axis=0))
    ellipse = copy_ellipse(recording)
    assert ellipse[3].sum() == pytest.approx(np.pi * 64, rel=0.05)
    assert not (ellipse[0] & ~recording.reference[0]).any()


def test_figures_are_means_over_labelled_frames_after_the_first(recordings):
    measured = measure_clips({"copy": copy_first}, clips_of(recordings), LABELS, Scoring())
    first = measured.table.of("copy")[0].metrics
    # the square has moved by 4 and by 12 of its 16 pixels
    assert first.dice == pytest.approx((12 / 16 + 4 / 16) / 2)
    assert first.reference_voxels == 512
    assert measured.units == {"px"}


def late(recording):
    """Right on the second and wrong on the last labelled frame, where it is one row."""
    masks = recording.reference.copy()
    masks[3] = 0
    masks[3, 30] = 1
    return masks


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
def test_as_the_authors_of_dd_sam2_time_is_a_third_axis(recordings, monkeypatch):
    """MONAI on the stack, as in their code; frame by frame the figures are others."""
    import monai.metrics as monai

    recording = clips_of(recordings)[0]
    settings = ClipSettings(compat="authors")
    scoring = settings.evaluation.scoring
    monkeypatch.setattr(type(recording), "spacing_mm", property(lambda _: (3.0, 2.0)))
    measured = measure_clips({"late": late}, [recording], LABELS, scoring, as_volume=True)
    found = measured.table.of("late")[0].metrics
    masks, later = late(recording), [1, 3]
    ours, theirs = (
        torch.from_numpy(one[later] > 0)[None, None].float() for one in (masks, recording.reference)
    )
    options = {"include_background": False}
    distance = monai.compute_hausdorff_distance(ours, theirs, percentile=95, **options)
    surface = monai.compute_surface_dice(ours, theirs, [0.5], **options)
    overlap = monai.compute_dice(ours, theirs, **options)
    assert found.hd95_mm == pytest.approx(distance.item())
    assert found.nsd == pytest.approx(surface.item())
    assert found.dice == pytest.approx(overlap.item())
    assert measured.units == {"px"}
    alone = measure_clips({"late": late}, [recording], LABELS, Scoring()).table.of("late")[0]
    assert abs(alone.metrics.dice - found.dice) > 0.05
    assert abs(alone.metrics.hd95_mm - found.hd95_mm) > 1
    assert abs(alone.metrics.nsd - found.nsd) > 0.05


def test_the_protocol_of_the_authors_fixes_the_scoring():
    scoring = ClipSettings(compat="authors").evaluation.scoring
    assert (scoring.definition, scoring.tolerance_mm) == ("voxel", 0.5)
    assert ClipSettings().evaluation.scoring == Scoring()
    with pytest.raises(InputError, match="compat must be None or 'authors'"):
        ClipSettings(compat="paper")


def test_a_strip_has_the_labelled_frames_and_leaves_unlabelled_ones_bare(recordings):
    measured = measure_clips({"copy": copy_first}, clips_of(recordings), LABELS, Scoring())
    recording = clips_of(recordings)[0]
    strip = film_strip("best", recording, {"copy": copy_first(recording)}, measured.table)
    assert strip.numbers == (0, 1, 2, 3)
    assert [one is not None for one in strip.reference] == [True, True, False, True]
    assert {one.shape[:2] for one in strip.images} == {strip.predictions["copy"][0].shape}
    assert strip.images[0].max() <= 1
    assert strip.dice == {"copy": pytest.approx(0.5)}


def test_nothing_to_measure_is_an_error():
    with pytest.raises(InputError, match="no clip shows an object"):
        measure_clips({"copy": copy_first}, [], LABELS, Scoring())


def test_flags_of_any_frame_are_kept():
    full, empty = np.ones((8, 8), bool), np.zeros((8, 8), bool)
    frames = [case_metrics(full, full, (1.0, 1.0)), case_metrics(empty, full, (1.0, 1.0))]
    mean = mean_metrics(frames)
    assert mean.dice == 0.5
    assert mean.flags == ("empty_prediction",)


@pytest.mark.parametrize("mark", ["box", "mask", "click"])
def test_a_tracker_answers_on_the_pixels_of_the_frames(recordings, mark):
    recording = clips_of(recordings)[0]
    masks = Tracked(tracker_of(build.sam2_test().eval()), mark)(recording)
    assert masks.shape == recording.reference.shape
    if mark == "mask":  # the given mask is kept, up to the resolution of the decoder
        assert case_metrics(masks[0] > 0, recording.reference[0] > 0, (1.0, 1.0)).dice > 0.9


def test_an_unknown_mark_is_refused():
    with pytest.raises(InputError, match="mark must be one of"):
        Tracked(tracker_of(build.sam2_test()), "scribble")


@pytest.mark.parametrize("boxes", ["oracle", "propagated"])
def test_slices_on_their_own(recordings, boxes):
    recording = clips_of(recordings)[0]
    assert Sliced(build.sam_tiny().eval(), boxes)(recording).shape == recording.reference.shape


def test_models_without_memory_are_refused():
    with pytest.raises(InputError, match="sam_tiny has no memory to follow objects with"):
        tracker_of(build.sam_tiny())


def test_a_run_is_evaluated_beside_zero_shot_and_copies(recordings, tmp_path):
    torch.manual_seed(0)
    segmenter = build.sam2_test(adapter=DepthwiseDilated)
    info = ModelInfo.of(segmenter, labels=LABELS, input=VIEW)
    (tmp_path / "run").mkdir()
    save_adapter(tmp_path / "run" / "adapter.safetensors", segmenter, info)
    settings = ClipSettings(evaluation=EvaluationSettings(robustness=RobustnessPlan(cases=0)))
    dataset = find_cases(recordings, labels=LABELS)
    found = evaluate_clips(tmp_path / "run", dataset, settings)
    assert list(found.summary["rows"]) == ["zero_shot", "adapted", "copy_last", "copy_ellipse"]
    assert found.summary["headline"] == "adapted"
    assert found.summary["cases"] == 2
    assert found.summary["rows"]["copy_last"]["mean"]["dice"]["mean"] == pytest.approx(0.5)
    assert all(row["is_oracle"] for row in found.summary["rows"].values())
    folder = tmp_path / "run" / "eval" / "test"
    assert (
        json.loads((folder / "summary.json").read_text())["model"] == "sam2_test + DepthwiseDilated"
    )
    assert (folder / "report.html").exists()
    assert (folder / "cases.csv").read_text().count("\n") == 3
    clip = found.summary["rows"]["copy_last"]["clip"]
    # the square moves by 4 pixels of 16 to the next labelled frame, then by 8
    assert clip["j"]["mean"] == pytest.approx((12 / 20 + 4 / 28) / 2)
    assert clip["consistency"]["mean"] == pytest.approx(1 - ((1 - 12 / 20) + (1 - 8 / 24)) / 2)
    assert "shown and not measured" in found.summary["definitions"]["frames"]
    page = (folder / "report.html").read_text()
    assert "J&amp;F" in page
    assert page.count("frame by frame") >= 2
    assert (folder / "figures" / "strip_best.png").stat().st_size > 5000
