import csv
import json

import numpy as np
import pytest

from segkit.cli import main as cli
from segkit.cli.predict_video import FramePrompt, parse_prompt
from segkit.errors import InputError
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
    assert (case["frames"], case["objects"]) == (4, [2, 1])
    assert {path.name for path in out.iterdir()} == {
        "frames.csv", "masks.jsonl", "overlay.mp4", "run_report.json",
    }  # fmt: skip
    assert cli.main([*words[:5], str(tmp_path / "o.png"), *words[6:]]) == 1
    assert "a video is written as .mp4 or into a folder" in capsys.readouterr().err


def test_prompts_name_frame_label_and_object() -> None:
    assert parse_prompt("--point", "3,4@12:0#7", 2) == FramePrompt((3.0, 4.0), 12, 7, 0)
    assert parse_prompt("--box", "1,2,3,4@0", 4) == FramePrompt((1.0, 2.0, 3.0, 4.0), 0, 1, 1)
    for wrong in ("3@1", "3,4@x", "3,4@1:5", "3,4@1#a"):
        with pytest.raises(InputError, match=r"expected x,y@FRAME\[:0\|1\]\[#OBJECT\]"):
            parse_prompt("--point", wrong, 2)
