"""`segkit eval` from the command line to the files."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from segkit.cli.eval import evaluate_config
from segkit.cli.hydra_app import register_resolvers
from segkit.cli.main import main
from segkit.data.preprocess import InputSpec
from segkit.models import build
from segkit.models.files import save_adapter
from segkit.models.info import ModelInfo

QUICK = [
    "settings.scoring.resampling.resamples=100",
    "settings.robustness.cases=0",
    "settings.baselines=[]",
    "device=cpu",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of scans of four persons for training, two test cases, MSD layout."""
    root = tmp_path_factory.mktemp("data")
    for folder in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (root / folder).mkdir()
    for number in range(1, 11):
        labels = np.zeros((16, 18, 3), dtype=np.uint8)
        labels[3 : 6 + number, 4:10] = 1
        part, name = ("Tr" if number <= 8 else "Ts"), f"scan_{number}.nii.gz"
        image = (labels * 90 + 10 * np.random.default_rng(number).random(labels.shape)) // 1
        for folder, array in (("images", image.astype(np.int16)), ("labels", labels)):
            path = root / f"{folder}{part}" / name
            nibabel.save(nibabel.Nifti1Image(array, np.diag([1, 1, 4, 1])), path)
    pair = "./{}Tr/scan_{}.nii.gz"
    training = [
        {"image": pair.format("images", n), "label": pair.format("labels", n)} for n in range(1, 9)
    ]
    test = [f"./imagesTs/scan_{n}.nii.gz" for n in (9, 10)]
    document = {"labels": {"0": "background", "1": "organ"}, "training": training, "test": test}
    (root / "dataset.json").write_text(json.dumps(document))
    return root


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with the settings of a training."""
    folder = tmp_path / "run"
    folder.mkdir()
    segmenter = build.sam_tiny()
    info = ModelInfo.of(segmenter, labels={1: "organ"}, input=InputSpec(size=64))
    save_adapter(folder / "adapter.safetensors", segmenter, info)
    module = "segkit.data.datamodule"
    slices = {
        "source": {"_target_": f"{module}.SourceSpec", "layout": "msd", "group_by": "pairs"},
        "split": {"_target_": "segkit.data.splits.SplitSpec", "fraction": 0.25},
        "samples": {"_target_": f"{module}.SampleSpec"},
    }
    config = {"data": {"slices": slices}, "prompt": {"interaction": {"box_share": 0.0}}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def composed(*overrides: str) -> DictConfig:
    register_resolvers()
    with initialize_config_module("segkit.configs", version_base="1.3"):
        return compose("eval", list(overrides))


def test_one_command_writes_the_results(
    run: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", f"run={run}", f"data.root={root}", *QUICK]) == 0
    summary = json.loads((run / "eval" / "test" / "summary.json").read_text())
    assert set(summary["rows"]) == {"zero_shot", "adapted"}
    assert summary["cases"] == 2
    printed = capsys.readouterr().out
    assert "2 cases of test" in printed
    assert "Zero-shot" in printed
    assert "(oracle prompt)" in printed
    assert "report.html" in printed
    assert (run / "eval" / "test" / "report.html").is_file()
    assert not (run / ".hydra").exists()


def test_data_are_read_and_prompted_as_in_training(run: Path, root: Path, tmp_path: Path) -> None:
    cfg = composed(f"run={run}", f"data.root={root}", "split=val", f"out={tmp_path}/o", *QUICK)
    found = evaluate_config(cfg)
    # one of four persons, both scans
    assert found.summary["cases"] == 2
    assert found.summary["bootstrap"]["subjects"] == 1
    assert found.summary["prompt"]["adapted"].startswith("3 oracle clicks")


def test_settings_of_the_command_come_first(run: Path, root: Path, tmp_path: Path) -> None:
    cfg = composed(
        *(f"run={run}", f"data.root={root}", f"out={tmp_path}/o", *QUICK),
        *("prompt.kind=box", "prompt.jitter=0.1", "settings.scoring.definition=voxel"),
        *("settings.scoring.tolerance_mm=2", "data.group_by='^(scan)'"),
    )
    with pytest.raises(ValueError, match="subjects are in train or val and in test"):
        evaluate_config(cfg)
    cfg.data.group_by = None
    found = evaluate_config(cfg)
    assert found.summary["prompt"]["adapted"] == "oracle box per object and slice, jitter 10%"
    assert "MONAI" in found.summary["definitions"]["nsd"]
    assert "at 2 mm" in found.summary["definitions"]["nsd"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run=nowhere", "data.root={root}"], "no such run folder"),
        (["run={run}"], "data.root has no value; add data.root=VALUE"),
        (["run={run}", "data.root={run}"], "dataset.json: this is not a readable JSON file"),
        (["run={run}", "data.root={root}", "split=holdout"], "split 'holdout' has 0 cases"),
        (["run={run}", "data.root={root}", "settings.limit=0"], "limit must be >= 1 case"),
        (
            ["run={run}", "data.root={root}", "settings._target_=os.system"],
            "settings._target_='os.system' is not allowed",
        ),
    ],
)
def test_errors_are_one_paragraph(
    words: list[str],
    message: str,
    run: Path,
    root: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["eval", *(word.format(run=run, root=root) for word in words)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) == 1
    assert not (run / "eval").exists()


def test_a_damaged_config_of_the_run_is_named(
    run: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "config.yaml").write_text("a: [")
    assert main(["eval", f"run={run}", f"data.root={root}"]) == 1
    assert "config.yaml: this is not a readable YAML file" in capsys.readouterr().err


def test_a_config_of_a_run_builds_only_what_is_allowed(
    run: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"data": {"slices": {"source": {"_target_": "os.system", "command": "true"}}}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["eval", f"run={run}", f"data.root={root}"]) == 1
    assert "is not allowed in a config" in capsys.readouterr().err


def test_a_run_may_ask_for_the_metrics_of_its_field(run: Path, root: Path) -> None:
    settings = yaml.safe_load((run / "config.yaml").read_text())
    text = yaml.safe_dump(settings | {"evaluation": {"saliency": "minmax"}})
    (run / "config.yaml").write_text(text)
    found = evaluate_config(composed(f"run={run}", f"data.root={root}", *QUICK))
    adapted = found.summary["rows"]["adapted"]
    assert set(adapted["saliency"]) >= {"s_measure", "weighted_f", "e_measure", "mae"}
    assert "stretched" in found.summary["definitions"]["s_measure"]
    other = "settings.saliency=probability"
    found = evaluate_config(composed(f"run={run}", f"data.root={root}", other, *QUICK))
    assert "as predicted" in found.summary["definitions"]["s_measure"]
