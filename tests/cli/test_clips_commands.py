"""`segkit train` and `segkit eval` on clips, end to end."""

import json

import numpy as np
import pytest
from PIL import Image

from segkit.cli.main import main

SIDE = 32


@pytest.fixture
def recordings(tmp_path):
    """Four training patients and two test patients with three frames of a moving square each."""
    for index in range(6):
        folder = tmp_path / "data" / ("train" if index < 4 else "test") / f"p{index}"
        for kind in ("frames", "masks"):
            (folder / kind).mkdir(parents=True)
        for number in range(1, 4):
            mask = np.zeros((SIDE, SIDE), np.uint8)
            mask[4 + index : 16 + index, 2 + 3 * number : 14 + 3 * number] = 255
            Image.fromarray(mask // 2 + 40).save(folder / "frames" / f"{number:04d}.png")
            Image.fromarray(mask).save(folder / "masks" / f"{number:04d}.png")
    return tmp_path / "data"


def test_train_and_eval_on_clips(recordings, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "one"
    training = [
        "experiment=cine_video", f"data.root={recordings}", f"run={run}", "backbone=sam2_test",
        f"data.size={SIDE}", "data.period=null", "data.along=[time]", "data.batch_size=2",
        f"data.cache_dir={tmp_path / 'cache'}", "trainer.max_epochs=1",
    ]  # fmt: skip
    assert main(["train", *training]) == 0
    assert (run / "adapter.safetensors").exists()
    evaluation = [
        f"run={run}", f"data.root={recordings}", "prompt.kind=mask",
        "settings.scoring.resampling.resamples=100",
    ]  # fmt: skip
    assert main(["eval", *evaluation]) == 0
    summary = json.loads((run / "eval" / "test" / "summary.json").read_text())
    assert list(summary["rows"]) == ["zero_shot", "adapted", "copy_last", "copy_ellipse"]
    assert summary["cases"] == 2
    # the square has moved by a quarter and by a half of its side
    assert summary["rows"]["copy_last"]["mean"]["dice"]["mean"] == pytest.approx(0.625)
    assert summary["rows"]["adapted"]["prompt"] == "oracle mask on the first frame"
    assert "First mask copied" in capsys.readouterr().out
    # the same as DD-SAM2 measures: time is the depth of a volume
    evaluation += ["clips.compat=authors", f"out={tmp_path / 'authors'}"]
    assert main(["eval", *evaluation]) == 0
    authors = json.loads((tmp_path / "authors" / "summary.json").read_text())
    assert authors["tolerance"] == 0.5
    assert "as one volume" in authors["definitions"]["frames"]
    nsd = [one["rows"]["copy_last"]["mean"]["nsd"]["mean"] for one in (summary, authors)]
    assert nsd[0] != nsd[1]


def test_a_protocol_of_clips_is_refused_elsewhere(recordings, capsys):
    assert main(["eval", "run=nano", f"data.root={recordings}", "clips.compat=authors"]) == 1
    assert "this model was not trained on clips" in capsys.readouterr().err
