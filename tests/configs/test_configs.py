"""Every YAML composes, builds its objects, and stays inside the closed lists."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

import segkit
from segkit.cli.hydra_app import RUN_VARIABLE, register_resolvers
from segkit.cli.targets import check_targets
from segkit.lightning import SegmentationModule, VideoModule
from segkit.losses import DDSam2Loss
from segkit.models import Segmenter

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
TINY = ["data.root=nowhere", "backbone.checkpoint=random"]


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


@pytest.fixture(autouse=True)
def composer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(RUN_VARIABLE, "runs/x")
    register_resolvers()
    with hydra.initialize_config_module("segkit.configs", version_base="1.3"):
        yield


def compose(*overrides: str) -> DictConfig:
    return hydra.compose("train", [*TINY, *overrides])


def build(cfg: DictConfig) -> SegmentationModule:
    plain: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    check_targets(plain)
    for name in ("model_input", "source", "split", "samples", "loader"):
        part = instantiate(cfg.data.slices[name], _convert_="all")
        if name == "samples":
            assert part.labels_as_read.instances == cfg.data.instances
    instantiate(cfg.data.augment, _convert_="all")
    for each in cfg.callbacks.values():
        instantiate(each, _convert_="all")
    instantiate(cfg.keeper, _convert_="all")(folder="x")
    assert instantiate(cfg.trainer, _convert_="all").func.__name__ == "Trainer"
    more = {"classes": 2} if cfg.automatic else {}
    segmenter = instantiate(cfg.backbone, **more, _convert_="all")
    assert isinstance(segmenter, Segmenter)
    return instantiate(cfg.prompt, _convert_="all")(
        segmenter,
        instantiate(cfg.loss, _convert_="all"),
        optimizer=instantiate(cfg.optimizer, _convert_="all"),
        labels={1: "a", 2: "b"},
    )


def is_volumetric(experiment: str) -> bool:
    return experiment.startswith("3dsam_") or "_3d" in experiment


SUPERVISED = ("hippocampus_stunet", "hippocampus_unet")  # their options are a network's own


@pytest.mark.parametrize("name", options("experiment"))
def test_every_experiment_builds(name: str) -> None:
    more = ["adapter.ratio=4"] if name in ("vessels", "sam_adapter_polyp") else []
    more += ["adapter.blocks=2"] if name.startswith("dd_sam2") else []
    backbone = "sam2_test" if name.startswith(("cine_video", "dd_sam2")) else "sam_tiny"
    backbone = "sam3d_tiny" if is_volumetric(name) else backbone
    chosen = [] if name in SUPERVISED else [f"backbone={backbone}"]
    cfg = compose(f"experiment={name}", *chosen, *more)
    module = build(cfg)
    assert cfg.name == name
    assert cfg.automatic == module.segmenter.is_automatic


def test_dd_sam2_as_released_switches_every_part_at_once() -> None:
    words = ("experiment=dd_sam2", "backbone=sam2_test", "adapter.blocks=2")
    module = build(compose(*words, "compat=authors"))
    assert isinstance(module, VideoModule)
    assert isinstance(module.loss, DDSam2Loss)
    assert module.following.compat == module.loss.compat == "authors"
    # its default initialisation is not the identity
    assert module.segmenter.backbone.adapter.layers[0].up.weight.any()
    sound = build(compose(*words))
    assert isinstance(sound, VideoModule)
    assert sound.following.compat is None
    assert not sound.segmenter.backbone.adapter.layers[0].up.weight.any()


@pytest.mark.parametrize("name", options("experiment"))
def test_every_experiment_shows_the_command_that_runs_it(name: str) -> None:
    lines = (CONFIGS / "experiment" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[1].startswith(f"# run: segkit train experiment={name} data.root=")


@pytest.mark.parametrize(
    ("group", "name"),
    [
        (group, name)
        for group in ("adapter", "prompt", "data", "trainer", "loss", "debug", "decoder")
        for name in options(group)
        if (group, name) not in (("decoder", "mask"), ("decoder", "inr"), ("loss", "dice_ce"))
    ],
)
def test_every_option_of_every_group_builds(group: str, name: str) -> None:
    has_memory = (group, name) == ("prompt", "clips")
    overrides = ["backbone=sam2_test" if has_memory else "backbone=sam_tiny", f"{group}={name}"]
    if name.startswith("multilevel"):
        overrides[0] = "backbone=sam3d_tiny"
        overrides += ["prompt=click"] if name == "multilevel" else []
    if (group, name) == ("adapter", "highfreq"):
        overrides.append("adapter.ratio=4")
    build(compose(*overrides))


@pytest.mark.parametrize("name", ["sam_vit_b", "sam_vit_h", "nano", "nano2", "sam2_tiny"])
def test_every_backbone_composes_and_may_be_built(name: str) -> None:
    plain: Any = OmegaConf.to_container(compose(f"backbone={name}"), resolve=True)
    check_targets(plain)
    assert plain["backbone"]["_target_"] == f"segkit.models.build.{name}"


def test_official_backbones_ask_for_their_file() -> None:
    cfg = hydra.compose("train", ["data.root=x", "backbone=sam_vit_b"])
    assert OmegaConf.is_missing(cfg.backbone, "checkpoint")


def test_experiment_wins_over_defaults_and_command_line_over_both() -> None:
    assert compose("experiment=vessels").data.size == 512
    assert compose("experiment=vessels", "data.size=256").data.size == 256
    assert compose("experiment=polyp_box").prompt.interaction.box_share == 1.0


def test_changing_the_adapter_leaves_no_option_of_the_old_one() -> None:
    assert set(compose("experiment=hippocampus", "adapter=lora").adapter) == {
        "_target_", "_partial_", "rank", "alpha", "targets"
    }  # fmt: skip


def test_every_config_and_package_is_in_the_wheel() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = set(settings["tool"]["setuptools"]["packages"])
    tree = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in Path(segkit.__file__).parent.rglob("__init__.py")
    }
    assert listed == tree | {"segkit.configs"}
    assert {path.relative_to(CONFIGS).parts[0] for path in CONFIGS.rglob("*.yaml")} >= {
        "adapter", "backbone", "data", "debug", "decoder", "experiment", "hydra", "loss", "prompt",
        "trainer", "train.yaml", "eval.yaml",
    }  # fmt: skip
    assert max(len(path.relative_to(CONFIGS).parts) for path in CONFIGS.rglob("*.yaml")) == 2
