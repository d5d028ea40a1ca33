"""Clips from real files: which frames belong together, training windows, batches."""

import numpy as np
import pytest
import torch
from PIL import Image

from segkit.data.cases import Case
from segkit.data.clips import Clip, collate_clips
from segkit.data.clips_datamodule import ClipDataModule
from segkit.data.clips_sequences import ClipSpec, draw_window, find_sequences
from segkit.data.datamodule import SourceSpec
from segkit.data.datasets import find_cases
from segkit.data.loading import LoaderSpec
from segkit.data.preprocess import InputSpec
from segkit.data.sampling import Draw
from segkit.data.splits import SplitSpec
from segkit.data.transforms import AugmentSpec
from segkit.errors import DataWarning, InputError


def cases(tmp_path, *numbers, group="p1"):
    return [Case(f"{group}_{n:04d}", (tmp_path / f"{n:04d}.png",), None, group) for n in numbers]


@pytest.fixture
def recordings(tmp_path):
    """Four patients with four frames each: a bright square that moves one pixel per frame."""
    for row, patient in enumerate("abcd", start=5):
        for kind in ("frames", "masks"):
            (tmp_path / "train" / patient / kind).mkdir(parents=True)
        for number in range(1, 5):
            mask = np.zeros((32, 32), np.uint8)
            mask[row : row + 8, 4 + number : 12 + number] = 255
            image = Image.fromarray(mask // 2 + 20)
            image.save(tmp_path / "train" / patient / "frames" / f"{number:04d}.png")
            if number != 2:
                path = tmp_path / "train" / patient / "masks" / f"{number:04d}.png"
                Image.fromarray(mask).save(path)
    return tmp_path


def module(root, cache, **changes):
    options = {
        "model_input": InputSpec(dimensions=2, size=32, channels="repeat"),
        "clips": ClipSpec(frames=3),
        "source": SourceSpec(keep_unlabelled=True),
        "split": SplitSpec(fraction=0.25),
        "loader": LoaderSpec(batch_size=2),
        "cache_dir": cache,
    }
    return ClipDataModule(root, **{**options, **changes})


def test_pictures_of_a_group_are_a_clip_in_the_order_of_their_numbers(tmp_path):
    found = find_sequences(cases(tmp_path, 10, 9, 100), (1, 1, 1), ClipSpec())
    assert [one.frames for one in found] == [((1, 0), (0, 0), (2, 0))]


def test_a_cine_stack_is_cut_along_time_and_through_the_slices(tmp_path):
    spec = ClipSpec(period=20, along=("time", "slices"))
    # phases 7 and 20 of two slices: a phase of 20 belongs to the slice before
    found = find_sequences(cases(tmp_path, 7, 20, 27, 40), (1,) * 4, spec)
    assert {one.name: [case for case, _ in one.frames] for one in found} == {
        "p1_slice00": [0, 1],
        "p1_slice01": [2, 3],
        "p1_phase06": [0, 2],
        "p1_phase19": [1, 3],
    }


def test_a_volume_is_a_clip_of_its_slices(tmp_path):
    (found,) = find_sequences(cases(tmp_path, 5), (3,), ClipSpec())
    assert found.frames == ((0, 0), (0, 1), (0, 2))


def test_single_frames_are_no_clip(tmp_path):
    one, other = cases(tmp_path, 1, group="a"), cases(tmp_path, 1, group="b")
    with pytest.raises(InputError, match="no clip of two or more frames among 2 cases"):
        find_sequences([*one, *other], (1, 1), ClipSpec())


def test_a_frame_without_a_number_is_refused(tmp_path):
    bare = [Case("x", (tmp_path / "first.png",), None, "g")] * 2
    with pytest.raises(InputError, match=r"'first\.png' holds no number"):
        find_sequences(bare, (1, 1), ClipSpec())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 1}, "frames >= 2"),
        ({"windows": 0}, "windows >= 1"),
        ({"max_step": 0}, "max_step >= 1"),
        ({"period": 1}, "period must be >= 2"),
        ({"along": ("depth",)}, "no way through a recording"),
        ({"along": ("slices",)}, "needs the number of frames per slice"),
    ],
)
def test_impossible_specs_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        ClipSpec(**options)


def test_a_window_starts_where_it_must_and_turns_at_the_ends():
    rng = np.random.default_rng(0)
    assert draw_window(2, [1], ClipSpec(frames=4), rng) == [1, 0, 1, 0]
    assert draw_window(4, [2], ClipSpec(frames=5), rng) == [2, 3, 2, 1, 0]
    backward = ClipSpec(frames=3, max_step=2, reverse=True)
    windows = {tuple(draw_window(9, [4], backward, rng)) for _ in range(40)}
    assert windows == {(4, 5, 6), (4, 6, 8), (4, 3, 2), (4, 2, 0)}


def test_frames_without_a_label_stay_in_the_clip(recordings, tmp_path):
    data = module(recordings, tmp_path / "cache")
    clip = data.val_clips.load(0)
    assert clip.is_labelled.tolist() == [True, False, True, True]
    assert clip.masks.flatten(1).sum(1).tolist() == [64, 0, 64, 64]
    assert [name.split("_")[1] for name in clip.frame_names] == [f"000{i}:0" for i in (1, 2, 3, 4)]


def test_a_training_window_is_decided_by_seed_epoch_and_index(recordings, tmp_path):
    data = module(recordings, tmp_path / "cache", augment=AugmentSpec())
    one, again, other = (data.train_clips.load(Draw(epoch, 1)) for epoch in (0, 0, 1))
    assert len(one) == 3
    assert one.is_labelled[0]
    assert one.masks[0].any()
    torch.testing.assert_close(one.frames, again.frames)
    assert not torch.equal(one.frames, other.frames)


def test_frames_of_a_clip_change_alike(recordings, tmp_path):
    """The same frame twice in one window looks the same after the augmentation."""
    data = module(recordings, tmp_path / "cache", augment=AugmentSpec(affine_probability=1.0))
    for epoch in range(4):
        clip = data.train_clips.load(Draw(epoch, 0))
        names = list(clip.frame_names)
        for name in set(names):
            first = names.index(name)
            for index, other in enumerate(names):
                if other == name:
                    torch.testing.assert_close(clip.frames[index], clip.frames[first])


def test_batches_hold_windows_in_training_and_whole_clips_in_validation(recordings, tmp_path):
    data = module(recordings, tmp_path / "cache")
    (train, rest), (val,) = list(data.train_loader(0)), list(data.val_loader())
    assert tuple(train.frames.shape) == (2, 3, 3, 32, 32)
    assert tuple(train.masks.shape) == (2, 3, 32, 32)
    assert len(rest) == 1
    assert tuple(val.frames.shape) == (1, 4, 3, 32, 32)
    moved = train.to("cpu", non_blocking=True)
    assert moved.case_id == train.case_id
    assert len(data.fingerprint) == 64


def test_an_epoch_may_draw_several_windows_of_each_clip(recordings, tmp_path):
    data = module(recordings, tmp_path / "cache", clips=ClipSpec(frames=2, windows=3))
    names = [name for batch in data.train_loader(0) for name in batch.case_id]
    assert len(names) == 9
    assert all(names.count(name) == 3 for name in names)
    first, second = (data.train_clips.load(Draw(0, index)) for index in (0, 3))
    assert first.name == second.name


def test_unlabelled_frames_are_refused_unless_asked_for(recordings, tmp_path):
    with pytest.raises(InputError, match="4 images without label"):
        module(recordings, tmp_path / "cache", source=SourceSpec())


def test_clips_without_an_object_are_no_training_material(recordings, tmp_path):
    for path in (recordings / "train").glob("*/masks/*.png"):
        Image.fromarray(np.zeros((32, 32), np.uint8)).save(path)
    with (
        pytest.warns(DataWarning, match="no labelled voxel|byte-identical"),
        pytest.raises(InputError, match="no clip of the train side shows an object"),
    ):
        _ = module(recordings, tmp_path / "cache").train_clips


def small(count=2, **changes):
    options = {
        "frames": torch.zeros(count, 3, 8, 8),
        "masks": torch.zeros(count, 8, 8, dtype=torch.long),
        "is_labelled": torch.ones(count, dtype=torch.bool),
        "name": "clip",
        "group": "patient",
        "frame_names": tuple(str(i) for i in range(count)),
    }
    return Clip(**{**options, **changes})


def test_a_clip_checks_its_parts():
    with pytest.raises(ValueError, match="as many masks and names as frames"):
        small(masks=torch.zeros(3, 8, 8, dtype=torch.long))
    with pytest.raises(ValueError, match="must have the same size"):
        small(masks=torch.zeros(2, 8, 4, dtype=torch.long))


def test_a_window_of_a_clip_keeps_names_and_labels_in_step():
    clip = small(3, frames=torch.arange(3.0).view(3, 1, 1, 1).expand(3, 3, 8, 8))
    chosen = clip.window([2, 0])
    assert chosen.frame_names == ("2", "0")
    assert chosen.frames[:, 0, 0, 0].tolist() == [2, 0]


def test_clips_of_unequal_length_make_no_batch():
    with pytest.raises(ValueError, match=r"same length, got \[2, 3\]"):
        collate_clips([small(2), small(3)])
    with pytest.raises(ValueError, match="at least one clip"):
        collate_clips([])


def test_the_cine_set_is_cut_into_its_slices_and_phases(shared_data):
    dataset = find_cases(shared_data("video/sunnybrook_cine_lv"))
    frames = dataset.cases["test"]
    spec = ClipSpec(period=20, along=("time", "slices"))
    found = find_sequences(frames, [1] * len(frames), spec)
    time = [one for one in found if "_slice" in one.name]
    through = [one for one in found if "_phase" in one.name]
    # end-diastole and end-systole of each slice, and both phases of each of nine patients
    assert {len(one) for one in time} == {2}
    assert len(through) == 18
    assert sum(map(len, through)) == len(frames) == 167
