"""`segkit convert --to` and `segkit predict --encoder`."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("onnxruntime", reason="needs segkit[int8]")

from segkit.backbones.onnx_graph import PRECISIONS
from segkit.cli.arguments import convert as flags
from segkit.cli.main import main
from segkit.data.preprocess import InputSpec
from segkit.models import build
from segkit.models.files import save_adapter
from segkit.models.info import ModelInfo
from segkit.predictors import exported
from segkit.predictors.exported import Gate

_EXPORT = exported.export_graph
_MADE: dict[tuple[str, int, str], bytes] = {}


@pytest.fixture(autouse=True)
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An export of one model takes seconds: the tests share it."""

    def export(backbone: object, side: int, precision: str) -> bytes:
        key = (type(backbone).__name__, side, precision)
        if key not in _MADE:
            _MADE[key] = _EXPORT(backbone, side, precision)  # type: ignore[arg-type]
        return _MADE[key]

    monkeypatch.setattr(exported, "export_graph", export)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    drawn = np.full((64, 64, 3), 40, np.uint8)
    drawn[20:44, 16:40] = 210
    Image.fromarray(drawn).save(path := tmp_path / "in.png")
    return path


def export(tmp_path: Path, *more: str, model: str = "sam_tiny") -> Path:
    path = tmp_path / "tiny.onnx"
    assert main(["convert", "--to", "int8", model, "-o", str(path), *more]) == 0
    return path


def test_a_model_is_exported_and_predicts(
    picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = export(tmp_path, "--json")
    record = json.loads(capsys.readouterr().out)
    assert record["precision"] == "int8"
    assert record["agreement"]["mean_iou"] >= 0.98
    box = ["--box", "16,20,40,44", "-m", "sam_tiny", "--json"]
    masks = []
    for name, more in (("float", []), ("int8", ["--encoder", str(path)])):
        out = tmp_path / f"{name}.png"
        assert main(["predict", str(picture), "-o", str(out), *box, *more]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["settings"].get("encoder") == (record if more else None)
        masks.append(np.asarray(Image.open(out)) > 0)
    assert masks[0].any()
    assert (masks[0] == masks[1]).mean() > 0.97


def test_pictures_and_bound_are_options(
    picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)  # of the class queries
    segmenter = build.sam_tiny(classes=2)
    info = ModelInfo.of(segmenter, labels={1: "a", 2: "b"}, input=InputSpec(2, 64, "rgb"))
    save_adapter(tmp_path / "adapter.safetensors", segmenter, info)
    more = ("--data", str(picture), "--min-iou", "0.5")
    export(tmp_path, *more, model=str(tmp_path / "adapter.safetensors"))
    shown = capsys.readouterr()
    assert "pictures (1 files)" in shown.out
    assert "compared 1 of 1 pictures" in shown.err
    words = ["convert", "--to", "int8", "sam_tiny", "-o", str(tmp_path / "b.onnx")]
    assert main([*words, "--min-iou", "1"]) == 1
    assert "does not agree with the float one: mean IoU 0.9" in capsys.readouterr().err
    assert not (tmp_path / "b.onnx").exists()
    assert main([*words, "--pictures", "0"]) == 1
    assert "pictures >= 1" in capsys.readouterr().err


def test_files_of_other_models_are_refused(
    picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = export(tmp_path)
    words = ["predict", str(picture), "-m", "nano", "--encoder", str(path), "--point", "3,4"]
    assert main([*words, "-o", str(tmp_path / "out.png")]) == 1
    shown = capsys.readouterr().err
    assert f"{path}: was exported from weights with sha256" in shown
    assert "export it again from this model: segkit convert --to int8" in shown


def test_one_encoder_belongs_to_one_model(
    picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", str(picture), "-m", "a", "-m", "b", "--encoder", "int8"]
    assert main([*words, "-o", str(tmp_path / "out")]) == 1
    assert "--encoder belongs to one model, got 2" in capsys.readouterr().err


@pytest.mark.parametrize("way", [[], ["--from", "sam", "--to", "int8"], ["--to", "int4"]])
def test_a_conversion_goes_one_way(way: list[str], tmp_path: Path) -> None:
    assert main(["convert", *way, "nano", "-o", str(tmp_path / "x.onnx")]) == 2


def test_flags_agree_with_what_they_set() -> None:
    assert flags.PRECISIONS == PRECISIONS
    args = ["--to", "int8", "nano", "-o", "x.onnx"]
    parser = argparse.ArgumentParser()
    flags.add_parser(parser.add_subparsers())
    read = parser.parse_args(["convert", *args])
    assert Gate(read.min_iou, read.data, read.pictures) == Gate(paths=[])
