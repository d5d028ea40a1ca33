"""From folders of generated data to experiments that compose."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hydra
import nibabel
import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from segkit.cli.hydra_app import RUN_VARIABLE, _own_experiment, register_resolvers
from segkit.cli.main import main
from segkit.data.datamodule import SourceSpec
from segkit.errors import InputError
from segkit.planning import PlanRequest, planner
from segkit.planning.dry_step import DryStep, Question, measure
from segkit.planning.planner import plan


@pytest.fixture(autouse=True)
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Question]:
    """Replace the measured step: 100 MiB and 0.1 s per image; keeps what was asked."""
    asked: list[Question] = []

    def answer(question: Question, batches: Sequence[int], limit_mib: float) -> list[DryStep]:
        asked.append(question)
        every = [DryStep(batch, 500.0 + 100 * batch, 0.1 * batch) for batch in batches]
        return [one for one in every if one.peak_mib <= limit_mib] or every[:1]

    monkeypatch.setattr(planner, "measure", answer)
    return asked


def ball(shape: tuple[int, ...], radius: float) -> np.ndarray:
    grid = np.indices(shape) - (np.array(shape).reshape(-1, *(1,) * len(shape)) - 1) / 2
    return (np.square(grid).sum(0) <= radius**2).astype(np.uint8)


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    """Eight CT scans of four patients with thick slices; one of them is damaged."""
    root = tmp_path / "ct"
    for folder in ("images", "masks"):
        (root / "train" / folder).mkdir(parents=True)
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    for number in range(12):
        labels = ball((40, 44, 10), 4.6)
        image = np.where(labels > 0, 60, -900).astype(np.int16)
        name = f"p{number // 2}_scan_{number % 2}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(image, affine), root / "train" / "images" / name)
        nibabel.save(nibabel.Nifti1Image(labels, affine), root / "train" / "masks" / name)
    (root / "train" / "images" / "p5_scan_1.nii.gz").write_bytes(b"\x1f\x8b cut")
    return root


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    root = tmp_path / "polyps"
    for folder in ("images", "masks"):
        (root / "train" / folder).mkdir(parents=True)
    for number in range(6):
        mask = ball((120, 160), 30 + number) * 255
        pixels = np.repeat((mask // 4 * 3 + 60)[..., None], 3, axis=2)
        pixels[0, 0] = number
        Image.fromarray(pixels).save(root / "train" / "images" / f"{number}.png")
        Image.fromarray(mask).save(root / "train" / "masks" / f"{number}.png")
    return root


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv(RUN_VARIABLE, "runs/x")
    register_resolvers()

    def compose(path: Path) -> Any:
        with _own_experiment([f"experiment={path}", "data.root=x"]) as words:
            search = next(word for word in words if word.startswith("hydra.searchpath"))
            with hydra.initialize_config_module("segkit.configs", version_base="1.3"):
                rest = [word for word in words if word != search]
                cfg = hydra.compose("train", [search, *rest], return_hydra_config=True)
        return OmegaConf.to_container(cfg, resolve=False)

    return compose


@pytest.fixture
def composed_experiment(composed: Any) -> Any:
    """An experiment that ships, as it is composed by name."""

    def compose(name: str) -> Any:
        with hydra.initialize_config_module("segkit.configs", version_base="1.3"):
            cfg = hydra.compose("train", [f"experiment={name}", "data.root=x"])
        return OmegaConf.to_container(cfg, resolve=False)

    return compose


def test_thick_ct_is_planned_with_its_window_and_its_subjects(
    volumes: Path, composed: Any, tmp_path: Path
) -> None:
    found = plan(volumes, PlanRequest(memory_gb=8.0))
    print_ = found.fingerprint
    assert print_.dimensions == 3
    assert [one.median for one in print_.spacing_mm] == [3.0, 1.0, 1.0]
    assert [one.median for one in print_.shape] == [10.0, 44.0, 40.0]
    assert (print_.slice_axis, print_.looked_at, print_.subjects["train"]) == (0, 11, 6)
    assert list(print_.damaged) == ["p5_scan_1"]
    assert found.value("data.intensity") == {"kind": "window", "windows": [[20.0, 100.0]]}
    assert found.value("data.channels") == "neighbours"
    assert found.value("data.group_by") == print_.group_by
    assert found.value("/prompt") == "automatic"
    assert found.value("data.batch_size") == 16
    cfg = composed(found.write(tmp_path / "ct.yaml"))
    assert (cfg["name"], cfg["data"]["size"], cfg["automatic"]) == ("ct", 128, True)
    assert cfg["plan"]["fingerprint"]["looked_at"] == 11


def test_pictures_of_one_compact_object_are_planned_with_prompts(
    pictures: Path,
    composed: Any,
    composed_experiment: Any,
    tmp_path: Path,
    steps: list[Question],
) -> None:
    request = PlanRequest(minutes=10, source=SourceSpec(labels={1: "polyp"}))
    found = plan(pictures, request)
    assert found.fingerprint.classes[1].name == "polyp"
    assert found.fingerprint.is_colour
    assert found.value("/prompt") == "mixed"
    assert (steps[-1].classes, steps[-1].objects) == (0, 1)
    assert found.value("data.intensity.kind") is None  # most of the range is used
    cfg = composed(found.write(tmp_path / "polyps.yaml"))
    assert cfg["data"]["labels"] == {1: "polyp"}
    assert cfg["data"]["empty"] == "drop"
    assert cfg["data"]["augment"]["flip_rows"] is True
    assert cfg["loss"]["_target_"] == "segkit.losses.DiceBCE"
    shipped = composed_experiment("polyp")
    for key in ("optimizer", "loss", "prompt"):
        told = {**cfg[key], "follow": "steps"} if key == "optimizer" else cfg[key]
        assert told == shipped[key]
    assert cfg["trainer"]["max_time"] == "00:00:10:00"
    text = (tmp_path / "polyps.yaml").read_text()
    assert "# run: segkit train experiment=polyps.yaml data.root=PATH" in text
    assert "# measured training steps (1: 600 MiB 0.10 s" in text


def test_the_batch_follows_the_memory_that_is_left(pictures: Path) -> None:
    found = plan(pictures, PlanRequest(memory_gb=1.2))
    assert found.value("data.batch_size") == 4
    assert found.value("trainer.accumulate_grad_batches") == 2
    with pytest.raises(InputError, match=r"1 image\(s\) of 256 pixels takes 600 MiB, 3\d\d MiB"):
        plan(pictures, PlanRequest(memory_gb=0.5))


@pytest.mark.parametrize(
    ("minutes", "memory_gb", "batch", "share"),
    [
        (5.0, 8.0, 8, None),  # 375 updates of 8 images
        (3.0, 8.0, 4, None),  # 225
        (3.0, 1.0, 2, 2),  # where no more than two fit, four make an update
    ],
)
def test_in_little_time_updates_come_first(
    pictures: Path, minutes: float, memory_gb: float, batch: int, share: int | None
) -> None:
    found = plan(pictures, PlanRequest(minutes=minutes, memory_gb=memory_gb))
    assert found.value("data.batch_size") == batch
    assert found.value("trainer.accumulate_grad_batches") == share
    reasons = {one.key: one.reason for one in found.decisions}
    hurried = "8 images in each would leave time for 225 updates, so half of them"
    assert (hurried in reasons["data.batch_size"]) == (minutes == 3.0)
    assert found.value("trainer.log_every_n_steps") == max(1, round(4.8 / batch))


def test_a_plan_says_how_many_updates_there_are(pictures: Path) -> None:
    found = plan(pictures, PlanRequest())
    reasons = {one.key: one.reason for one in found.decisions}
    assert found.value("trainer.max_epochs") == 100
    assert reasons["trainer.max_epochs"].startswith("100 updates; an epoch has 1 steps")


def test_a_supervised_network_is_planned_without_prompts(
    pictures: Path, composed: Any, tmp_path: Path
) -> None:
    found = plan(pictures, PlanRequest(model="unet_2d"))
    cfg = composed(found.write(tmp_path / "unet.yaml"))
    assert cfg["backbone"]["_target_"] == "segkit.models.build.unet_2d"
    assert cfg["optimizer"]["lr_by_part"] == {"encoder": 1e-3}
    assert cfg["automatic"] is True


@pytest.mark.parametrize("labels", [None, {1: "nucleus"}])
def test_numbered_objects_are_seen(tmp_path: Path, labels: dict[int, str] | None) -> None:
    for folder in ("images", "labels"):
        (tmp_path / "train" / folder).mkdir(parents=True)
    for number in range(5):
        ids = np.zeros((64, 64), np.uint8)
        for value in range(1, 10):
            row, column = divmod(value - 1, 3)
            ids[4 + 20 * row : 14 + 20 * row, 4 + 20 * column : 14 + 20 * column] = value + number
        Image.fromarray(ids * 9 + number).save(tmp_path / "train" / "images" / f"{number}.png")
        Image.fromarray(ids).save(tmp_path / "train" / "labels" / f"{number}.png")
    found = plan(tmp_path, PlanRequest(source=SourceSpec(labels=labels)))
    assert found.fingerprint.instances
    assert not found.fingerprint.damaged
    assert found.value("/prompt") == "automatic"
    # numbers of objects are no classes
    assert found.value("data.slices.samples.label_options")["threshold"] == 0.5
    assert found.value("data.instances") is None


def test_many_numbered_objects_are_marked_at_once(tmp_path: Path, steps: list[Question]) -> None:
    for folder in ("images", "labels"):
        (tmp_path / "train" / folder).mkdir(parents=True)
    for number in range(5):
        ids = np.kron(np.arange(1, 26).reshape(5, 5), ball((12, 12), 4)).astype(np.uint8)
        Image.fromarray(ids * 9 + number).save(tmp_path / "train" / "images" / f"{number}.png")
        Image.fromarray(ids + np.uint8(number) * (ids > 0)).save(
            tmp_path / f"train/labels/{number}.png"
        )
    found = plan(tmp_path, PlanRequest(prompt="mixed", source=SourceSpec(labels={1: "cell"})))
    assert found.value("data.instances") is True
    assert found.value("prompt.interaction.max_objects") == steps[-1].objects == 8
    assert found.value("data.zoom")["factor"] == 1.6  # type: ignore[index]


@pytest.mark.parametrize(("radius", "zoom"), [(15, True), (40, False)])
def test_small_objects_are_looked_at_closely(
    tmp_path: Path, composed: Any, composed_experiment: Any, radius: int, zoom: bool
) -> None:
    for folder in ("images", "masks"):
        (tmp_path / "train" / folder).mkdir(parents=True)
    for number in range(5):
        mask = ball((240, 256), radius + 0.1 * number) * 255
        Image.fromarray(mask).save(tmp_path / "train" / "images" / f"{number}.png")
        Image.fromarray(mask).save(tmp_path / "train" / "masks" / f"{number}.png")
    found = plan(tmp_path, PlanRequest(source=SourceSpec(labels={1: "ventricle"})))
    assert found.value("/prompt") == "mixed"
    cfg = composed(found.write(tmp_path / "mine.yaml"))
    assert cfg["data"]["zoom"] == (
        composed_experiment("cine_click")["data"]["zoom"] if zoom else None
    )


@pytest.mark.parametrize(("brightest", "kind"), [(4095, "percentile"), (60000, None)])
def test_pictures_in_a_small_part_of_their_range_are_stretched(
    tmp_path: Path, brightest: int, kind: str | None
) -> None:
    for folder in ("images", "masks"):
        (tmp_path / "train" / folder).mkdir(parents=True)
    for number in range(5):
        mask = ball((64, 64), 20)
        pixels = mask.astype(np.uint16) * (brightest - number)
        Image.fromarray(pixels).save(tmp_path / "train" / "images" / f"{number}.png")
        Image.fromarray(mask * 255).save(tmp_path / "train" / "masks" / f"{number}.png")
    found = plan(tmp_path, PlanRequest(source=SourceSpec(labels={1: "spot"})))
    used = found.fingerprint.intensity.range_used
    assert used.median == pytest.approx(brightest / 65535, abs=1e-3)
    assert found.value("data.intensity.kind") == kind
    if kind is not None:
        reasons = {one.key: one.reason for one in found.decisions}
        assert "no more than 6% of the range of uint16" in reasons["data.intensity.kind"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "resnet"}, "a plan cannot be made for 'resnet'"),
        ({"prompt": "magic"}, "unknown prompt 'magic'"),
        ({"model": "unet_2d", "prompt": "box"}, "unet_2d takes no prompts"),
        ({"memory_gb": 0.0}, "memory_gb must be > 0"),
        ({"cases": 0}, "cases must be >= 1"),
    ],
)
def test_impossible_requests_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PlanRequest(**change)


def test_the_command_writes_and_prints(
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "p.yaml"
    assert main(["plan", str(pictures), "-o", str(out), "--labels", "polyp", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["format"] == 1
    assert {"key", "value", "reason"} == set(document["decisions"][0])
    assert out.is_file()
    assert main(["plan", str(pictures), "-o", str(tmp_path / "p.txt")]) == 1
    assert "written to a .yaml file" in capsys.readouterr().err
    # said before minutes go into the data set
    monkeypatch.setattr("segkit.cli.plan.plan", lambda *_, **__: pytest.fail("looked at the data"))
    assert main(["plan", str(pictures), "-o", str(tmp_path / "none" / "p.yaml")]) == 1
    assert "the folder for the plan does not exist" in capsys.readouterr().err


def test_a_step_is_measured_in_a_process_of_its_own() -> None:
    question = Question("sam_tiny", "dilated", {}, classes=2, size=64)
    found = measure(question, [1, 2], limit_mib=1e6)
    assert [one.batch for one in found] == [1, 2]
    assert all(one.peak_mib > 100 and one.seconds > 0 for one in found)


def test_a_step_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], -9, stdout="", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    question = Question("nano", "dilated", {}, classes=2, size=64)
    with pytest.raises(InputError, match=r"1 image\(s\) of 64 pixels failed: exit code -9"):
        measure(question, [1], limit_mib=1e6)


@pytest.mark.parametrize(
    ("limit_s", "key", "value"),
    [
        (1000, "trainer.check_val_every_n_epoch", 1),
        (80, "trainer.val_check_interval", 0.24),  # three validations of 7 s
        (40, "trainer.val_check_interval", 0.36),  # one
        (10, "trainer.val_check_interval", 0.09),  # one, though it costs most of the time
    ],
)
def test_validation_leaves_a_short_run_time_to_train(
    limit_s: float, key: str, value: float
) -> None:
    found: Any = SimpleNamespace(slices=1000, looked_at=10, cases={"train": 10})
    decided = planner._validation(found, 0.1, 100.0, limit_s)
    assert (decided.key, decided.value) == (key, pytest.approx(value))
    assert "validation 7 s" in decided.reason
