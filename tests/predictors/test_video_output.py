import csv
import json

import numpy as np
import pytest
from PIL import Image

from segkit.cli import main as cli
from segkit.cli.predict_video import FramePrompt, parse_prompt
from segkit.data.video_writer import tinted
from segkit.data.volume import Volume
from segkit.errors import InputError
from segkit.geometry import Geometry
from segkit.predictors.video_masks import ObjectMask, RunLengths

av = pytest.importorskip("av")


@pytest.mark.parametrize("fill", [0.0, 0.3, 1.0])
def test_run_lengths_round_trip_and_follow_coco(fill) -> None:
    mask = np.random.default_rng(0).random((7, 5)) < fill
    runs = RunLengths.of(mask)
    np.testing.assert_array_equal(runs.mask(), mask)
    counts = runs.counts()
    assert sum(counts) == 35
    assert counts[0] == (0 if mask[0, 0] else np.argmax(mask.ravel("F")) if mask.any() else 35)


def test_measurements_of_a_mask() -> None:
    mask = np.zeros((10, 20), bool)
    mask[2:4, 5:9] = True
    found = ObjectMask.of(mask, 0.8)
    assert (found.area_px, found.centroid, found.score) == (8, (2.5, 6.5), 0.8)
    empty = ObjectMask.of(np.zeros((4, 4), bool), 0.8)
    assert (empty.area_px, empty.centroid, empty.score) == (0, None, 0.0)


def test_video_writer_lists_areas_and_motion_in_mm(tmp_path) -> None:
    from segkit.data.video import ArrayFrames
    from segkit.predictors.video_masks import FrameMasks, MaskTrack
    from segkit.predictors.video_output import VideoWriter

    source, track = ArrayFrames(np.zeros((3, 16, 16), np.uint8)), MaskTrack()
    source.spacing_mm = (2.0, 0.5)
    with VideoWriter(tmp_path / "out", source, track) as writer:
        for frame, column in enumerate((2, None, 6)):
            mask = np.zeros((16, 16), bool)
            if column is not None:
                mask[4:6, column : column + 2] = True
            track.put(frame, 1, ObjectMask.of(mask, 0.9))
            writer.write(FrameMasks(frame, frame / 10, {1: mask}, {1: 0.9}))
    rows = list(csv.DictReader((tmp_path / "out" / "frames.csv").read_text().splitlines()))
    assert [row["area_mm2"] for row in rows] == ["4.000", "0", "4.000"]
    assert rows[1]["row_px"] == rows[1]["moved_mm"] == ""
    assert (rows[2]["moved_px"], rows[2]["moved_mm"]) == ("4.000", "2.000")
    lines = [
        json.loads(line) for line in (tmp_path / "out" / "masks.jsonl").read_text().splitlines()
    ]
    assert lines[2]["objects"]["1"]["size"] == [16, 16]
    assert sum(lines[2]["objects"]["1"]["counts"][1::2]) == 4
    assert (tmp_path / "out" / "overlay.mp4").stat().st_size > 0


def test_outlines_are_drawn_inside_of_masks_and_not_along_the_frame() -> None:
    image, mask = np.full((40, 50, 3), 100, np.uint8), np.zeros((40, 50), bool)
    mask[10:20, 30:50] = True
    out = tinted(image, {1: mask})
    assert (out[~mask] == 100).all()
    edge, inner = out[10, 40], out[15, 40]
    assert (out[10:20, 30] == edge).all()
    assert (out[19, 30:50] == edge).all()
    # at the border of the frame nobody knows where the object ends
    assert (out[11:19, 49] == inner).all()
    assert not np.array_equal(edge, inner)
    assert np.array_equal(tinted(image, {1: np.zeros_like(mask)}), image)
    wide = tinted(np.zeros((1200, 900, 3), np.uint8), {1: np.pad(mask, ((0, 1160), (0, 850)))})
    assert (wide[12, 35:45] == edge).all()
    assert not (wide[13, 40] == edge).all()


def test_objects_in_a_volume_become_a_label_map_on_its_grid(tmp_path) -> None:
    from segkit.data.readers import load
    from segkit.data.video import ArrayFrames, VolumeFrames
    from segkit.predictors.video_masks import FrameMasks, MaskTrack
    from segkit.predictors.video_output import VideoWriter

    geometry = Geometry((4, 8, 6), np.diag([0.5, 0.5, 3.0, 1.0]))
    volume = Volume(np.zeros((4, 8, 6), np.int16), geometry)
    one, other = np.zeros((2, 4, 6), bool)
    one[1, 2:5], other[1, 4] = True, True
    frames = VolumeFrames(volume, axis=1)
    with VideoWriter(tmp_path / "labels.nii.gz", frames, MaskTrack()) as writer:
        writer.write(FrameMasks(5, None, {1: one, 3: other}, {1: 0.9, 3: 0.9}))
    found = load(tmp_path / "labels.nii.gz")
    assert found.array.shape == (4, 8, 6)
    np.testing.assert_allclose(found.geometry.affine, geometry.affine)
    assert found.array[1, 5].tolist() == [0, 0, 1, 1, 3, 0]
    assert found.array.sum() == 5
    with (
        pytest.raises(InputError, match=r"objects \[0\] cannot be voxel values"),
        VideoWriter(tmp_path / "zero.nii.gz", frames, MaskTrack()) as writer,
    ):
        writer.write(FrameMasks(0, None, {0: one}, {0: 0.9}))
    assert not (tmp_path / "zero.nii.gz").exists()
    recording = ArrayFrames(np.zeros((2, 4, 6), np.uint8))
    with (
        pytest.raises(InputError, match="is a file for volumes, and this is a recording"),
        VideoWriter(tmp_path / "no.nii.gz", recording, MaskTrack()),
    ):
        pass


def test_segkit_predict_tracks_a_video(tmp_path, capsys) -> None:
    clip = tmp_path / "clip.mp4"
    from segkit.data.video_writer import OverlayWriter
    from segkit.data.volume import Picture

    with OverlayWriter(clip) as writer:
        for index in range(4):
            writer.write(Picture(np.full((48, 64), 40 * index, np.uint8)), {}, index / 10)
    out = tmp_path / "out"
    words = ["predict", str(clip), "-m", "sam2_test", "-o", str(out), "--json", "--device", "cpu"]
    words += ["--point", "20,30@0", "--point", "25,30@0:0", "--box", "5,5,30,30@2#2"]
    assert cli.main(words) == 0
    (case,) = json.loads(capsys.readouterr().out)["cases"]
    assert (case["frames"], case["objects"], case["status"]) == (4, [2, 1], "done")
    report = json.loads((out / "run_report.json").read_text())
    assert report["model"] == "sam2_test"
    assert {"segkit_version", "torch_version", "backbone_sha256", "seconds"} <= set(report)
    assert {path.name for path in out.iterdir()} == {
        "frames.csv", "masks.jsonl", "overlay.mp4", "run_report.json",
    }  # fmt: skip
    assert cli.main([*words[:5], str(tmp_path / "o.png"), *words[6:]]) == 1
    assert "a video is written as .mp4 or into a folder" in capsys.readouterr().err


@pytest.fixture
def folder(tmp_path):
    """Five frames as pictures, and the same as a volume."""
    nibabel = pytest.importorskip("nibabel")
    (tmp_path / "clip").mkdir()
    stack = np.zeros((5, 32, 48), np.uint8)
    for index, frame in enumerate(stack):
        frame[8:20, 10 + index : 24 + index] = 200
        Image.fromarray(frame).save(tmp_path / "clip" / f"{index}.png")
    affine = np.diag([1.0, 1.0, 4.0, 1.0])
    nibabel.Nifti1Image(stack.T.astype(np.int16), affine).to_filename(tmp_path / "ct.nii.gz")
    return tmp_path


def predict(folder, source, out, *words, box="10,8,24,20@2"):
    source, out = str(folder / source), str(folder / out)
    words = [*words, "--box", box, "--device", "cpu"]
    return cli.main(["predict", source, "-m", "sam2_test", "-o", out, *words])


def frames_in(folder, out):
    rows = csv.DictReader((folder / out / "frames.csv").read_text().splitlines())
    return [int(row["frame"]) for row in rows]


def test_objects_are_followed_in_both_directions(folder, capsys) -> None:
    assert predict(folder, "clip", "forward") == 0
    assert "frames before 2, the first that is marked, have no masks" in capsys.readouterr().err
    assert frames_in(folder, "forward") == [2, 3, 4]
    assert predict(folder, "clip", "back", "--direction", "backward") == 0
    assert frames_in(folder, "back") == [0, 1, 2]
    assert predict(folder, "clip", "both", "--direction", "both") == 0
    assert "have no masks" not in capsys.readouterr().err
    assert frames_in(folder, "both") == [0, 1, 2, 3, 4]
    forward, both = (
        (folder / name / "masks.jsonl").read_text().splitlines() for name in ("forward", "both")
    )
    assert both[2:] == forward
    assert len(list(av.open(str(folder / "both" / "overlay.mp4")).decode(video=0))) == 5


def test_a_volume_gives_a_label_map(folder) -> None:
    from segkit.data.readers import load

    assert predict(folder, "ct.nii.gz", "all", "--direction", "both") == 0
    assert predict(folder, "ct.nii.gz", "labels.nrrd", "--direction", "both") == 0
    one, other = load(folder / "all" / "labels.nii.gz"), load(folder / "labels.nrrd")
    assert one.array.shape == (5, 32, 48)
    np.testing.assert_array_equal(one.array, other.array)
    lines = (folder / "all" / "masks.jsonl").read_text().splitlines()
    masks = [json.loads(line) for line in lines]
    areas = [sum(line["objects"]["1"]["counts"][1::2]) for line in masks]
    assert (one.array == 1).sum((1, 2)).tolist() == areas


def test_one_input_that_fails_does_not_end_the_others(folder, capsys) -> None:
    (folder / "broken").mkdir()
    (folder / "broken" / "0.png").write_bytes(b"no picture")
    inputs = [str(folder / name) for name in ("broken", "clip", "ct.nii.gz")]
    words = ["-m", "sam2_test", "-o", str(folder / "out"), "--box", "10,8,24,20@0"]
    assert cli.main(["predict", *inputs, *words, "--json"]) == 1
    found = capsys.readouterr()
    assert "error: " in found.err
    assert [one["status"] for one in json.loads(found.out)["cases"]] == ["failed", "done", "done"]
    report = json.loads((folder / "out" / "run_report.json").read_text())
    assert report["failed"] == 1
    assert {one.name for one in (folder / "out").iterdir()} == {"clip", "ct", "run_report.json"}
    # what is done is not done again, unless the settings are others
    for more, status in ((["--resume"], "skipped"), (["--resume", "--point", "15,15@0"], "done")):
        assert cli.main(["predict", *inputs, *words, "--json", *more]) == 1
        cases = json.loads(capsys.readouterr().out)["cases"]
        assert [one["status"] for one in cases] == ["failed", status, status]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--label", "heart"], "--label: no effect on a sequence of frames"),
        (["--mirror", "--propagate"], "--propagate, --mirror: no effect"),
        (["--space", "ras"], "prompts on frames are in pixels"),
    ],
)
def test_options_without_effect_are_refused(folder, capsys, words, message) -> None:
    assert predict(folder, "clip", "out", *words) == 1
    assert message in capsys.readouterr().err


def test_two_inputs_of_one_name_are_refused(folder, capsys) -> None:
    words = ["-m", "sam2_test", "-o", str(folder / "out"), "--box", "10,8,24,20@0"]
    assert cli.main(["predict", *[str(folder / "clip")] * 2, *words]) == 1
    assert "several inputs would be written to" in capsys.readouterr().err


def test_a_direction_without_frames_is_refused(folder, capsys) -> None:
    assert predict(folder, "ct.nii.gz", "out", "--direction", "both", box="1,1,1,9,9,2") == 1
    assert "--direction is for videos" in capsys.readouterr().err


def test_prompts_name_frame_label_and_object() -> None:
    assert parse_prompt("--point", "3,4@12:0#7", 2) == FramePrompt((3.0, 4.0), 12, 7, 0)
    assert parse_prompt("--box", "1,2,3,4@0", 4) == FramePrompt((1.0, 2.0, 3.0, 4.0), 0, 1, 1)
    for wrong in ("3@1", "3,4@x", "3,4@1:5", "3,4@1#a"):
        with pytest.raises(InputError, match=r"expected x,y@FRAME\[:0\|1\]\[#OBJECT\]"):
            parse_prompt("--point", wrong, 2)
