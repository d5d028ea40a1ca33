"""`segkit train` end to end on generated volumes, and what it refuses."""

import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer

from segkit.adapters import Adapter
from segkit.cli import train
from segkit.cli.hydra_app import RUN_VARIABLE, run_folder
from segkit.cli.main import main
from segkit.data.datamodule import SampleSpec, SliceDataModule
from segkit.data.loading import LoaderSpec
from segkit.data.phantom import write_phantom_dataset
from segkit.data.preprocess import InputSpec
from segkit.data.transforms import AugmentSpec
from segkit.errors import InputError
from segkit.lightning import (
    AutomaticModule,
    InterruptedRunError,
    SegmentationData,
    fit,
    read_checkpoint,
    seed_all,
)
from segkit.losses import DiceCE
from segkit.models import build, load_model


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    return write_phantom_dataset(folder / "data", cases=5, test_cases=1, shape=(8, 24, 24))


@pytest.fixture
def command(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return [
        "train",
        f"data.root={data}",
        f"data.cache_dir={data.parent / 'cache'}",
        "debug=default",
    ]


def runs(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "runs" / "debug").iterdir())


def test_train_fills_the_run_folder_and_resumes(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "keeper.every_n_steps=1"]) == 0
    (run,) = runs(tmp_path)
    assert {path.name for path in run.iterdir()} == {
        "adapter.safetensors", "checkpoints", "config.yaml", "environment.json", "metrics.csv",
        "run.lock", "tensorboard", "train.log",
    }  # fmt: skip
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"]["slices"]["root"] == config["data"]["root"]
    facts = json.loads((run / "environment.json").read_text())
    assert {"packages", "device", "git_commit", "data", "parameters", "result"} <= set(facts)
    assert facts["parameters"]["trainable"] < facts["parameters"]["total"]
    segmenter, info = load_model(run)
    assert info.input == InputSpec(dimensions=3, size=64)
    assert 0 <= float(str(info.metrics["val/dice"])) <= 1
    best = read_checkpoint(run / "checkpoints" / "best.ckpt")["state_dict"]
    for name, tensor in segmenter.trainable_state().items():
        torch.testing.assert_close(tensor, best[name], rtol=0, atol=0)

    assert main([*command, "keeper.every_n_steps=1", "ckpt_path=last"]) == 0
    assert runs(tmp_path) == [run]
    capsys.readouterr()
    assert main([*command, "ckpt_path=last", "optimizer.lr=1", f"run={run}"]) == 1
    refusal = capsys.readouterr().err
    assert "keeper.every_n_steps: 1 -> 200, optimizer.lr: 0.001 -> 1" in refusal
    assert "Traceback" not in refusal


def test_five_lines_of_python_do_what_the_yaml_does(
    command: list[str], data: Path, tmp_path: Path
) -> None:
    assert main([*command, "run=yaml"]) == 0

    seed_all(0)
    slices = SliceDataModule(
        data,
        model_input=InputSpec(dimensions=3, size=64),
        samples=SampleSpec(limit=2),
        loader=LoaderSpec(batch_size=2),
        augment=AugmentSpec(),
    )
    segmenter = build.sam_tiny(adapter=Adapter, classes=len(slices.labels), image_size=64)
    module = AutomaticModule(segmenter, DiceCE(), labels=slices.labels, iou_weight=0.1)
    trainer = partial(
        Trainer, accelerator="cpu", max_epochs=1, limit_train_batches=2, gradient_clip_val=1.0
    )
    fit(module, SegmentationData(slices), "python", trainer=trainer)

    one, two = (
        read_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt")
        for name in ("yaml", "python")
    )
    for name, tensor in one["state_dict"].items():
        torch.testing.assert_close(tensor, two["state_dict"][name], rtol=0, atol=0, msg=name)


def test_sweep_gives_each_job_its_own_folder(command: list[str], tmp_path: Path) -> None:
    assert main([*command, "-m", "adapter=none,dilated", "trainer.limit_train_batches=1"]) == 0
    (sweep,) = runs(tmp_path)
    found = [load_model(sweep / job)[1].recipe.adapter.target for job in ("0", "1")]
    assert found == ["segkit.adapters.Adapter", "segkit.adapters.DepthwiseDilated"]


def test_help_and_composed_config_need_no_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    assert "example: segkit train experiment=hippocampus" in capsys.readouterr().out
    assert main(["train", "experiment=polyp", "--cfg", "job"]) == 0
    assert "box_share: 0.5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.root=missing"], "segkit train: missing: this is not a folder; give the folder"),
        ([], "data.root has no value; add data.root=VALUE"),
        (["data.root=x", "adaptor=lora"], "Could not override 'adaptor'"),
        (["data.root=x", "adapter=lorra"], "adapter/lorra"),
        (["data.root=x", "experiment=hippocampos"], "experiment/hippocampos"),
        (["data.root=x", "ckpt_path=last"], "there is no run to resume; name its folder"),
        (["data.root=x", "loss._target_=os.getcwd"], "loss._target_='os.getcwd' is not allowed"),
        (["data.root=${oc.env:HOME}"], "a config may not read the environment (oc.env: HOME)"),
        (["data.root=x", "+hydra.job.env_set.A=1"], "hydra.job.env_set is not allowed"),
        (
            ["data.root=x", "+hydra.callbacks.a._target_=os.getcwd"],
            "hydra.callbacks.a._target_='os.getcwd' is not allowed",
        ),
        (["data.root=x", "run=/dev/null/run"], "Not a directory"),
        (["data.root=x", "data.batch_size=0"], "batch_size must be >= 1"),
    ],
)
def test_what_cannot_run_is_one_paragraph(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "debug=default", *words]) == 1
    text = capsys.readouterr().err
    assert message in text
    assert "Traceback" not in text
    assert text.count("\n") == 1


def test_own_experiment_file_is_used_and_checked(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "polyp.yaml"  # the name of a shipped one
    own.write_text("# @package _global_\nname: mine\noptimizer: {lr: 0.5}\n")
    words = ["train", f"experiment={own.name}", f"data.root={data}"]
    assert main([*words, "--cfg", "job"]) == 0
    text = capsys.readouterr().out
    assert "name: mine" in text
    assert "lr: 0.5" in text

    own.write_text("# @package _global_\nname: !!python/object/apply:os.getcwd []\n")
    assert main(words) == 1
    assert "python/object/apply:os.getcwd" in capsys.readouterr().err
    own.unlink()
    assert main(words) == 1
    assert capsys.readouterr().err == (
        "segkit train: polyp.yaml: no such experiment file; check the path\n"
    )


def test_broken_override_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "data.root"]) == 1
    assert "segkit train: " in capsys.readouterr().err


def test_interrupted_run_says_so_in_its_exit_code(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise InterruptedRunError(signal.SIGTERM, Path("run"), 7)

    monkeypatch.setattr(train, "train_config", interrupt)
    assert main(command) == 143
    assert "run: interrupted by SIGTERM and saved at step 7" in capsys.readouterr().err


def test_run_folder_is_fixed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RUN_VARIABLE, raising=False)
    first = run_folder(str(tmp_path), "a")
    assert run_folder(str(tmp_path), "a") == first
    monkeypatch.delenv(RUN_VARIABLE)
    for name in ("2026-01-01", "2026-02-01"):
        (tmp_path / "a" / name / "checkpoints").mkdir(parents=True)
        (tmp_path / "a" / name / "checkpoints" / "last.ckpt").touch()
    assert run_folder(str(tmp_path), "a", "last") == str(tmp_path / "a" / "2026-02-01")
    monkeypatch.delenv(RUN_VARIABLE)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"cannot agree on a new folder; name it with run=PATH"):
        run_folder(str(tmp_path), "a")


@pytest.mark.slow
def test_two_processes_share_one_folder_and_their_gradients(
    command: list[str], tmp_path: Path
) -> None:
    words: list[Any] = [*command[1:], "trainer=ddp_cpu", "trainer.devices=2", "run=both"]
    done = subprocess.run(
        [sys.executable, "-m", "segkit.cli.main", "train", *words],
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    state = read_checkpoint(tmp_path / "both" / "checkpoints" / "last.ckpt")
    assert state["global_step"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["both"]
