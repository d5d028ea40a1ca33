"""`segkit models` from the command line."""

import json
from pathlib import Path

import pytest

from segkit.cli.main import main
from segkit.models import weights
from segkit.models.sources import package_file
from segkit.models.text_encoder import load_text_encoder


def run_json(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    assert main(["models", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("words", [[], ["list"]])
def test_list_names_what_exists(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    found = run_json(capsys, *words)
    backbones = {one["name"]: one for one in found["backbones"]}
    assert backbones.keys() >= {"nano", "sam_tiny", "sam_vit_b", "sam_vit_l", "sam_vit_h"}
    assert backbones["sam_vit_b"]["sha256"].startswith("ec2df627")
    assert backbones["sam_vit_b"]["licence"] == "Apache-2.0"
    assert found["adapters"].keys() >= {"HighFrequency", "DepthwiseDilated", "LoRA"}
    assert found["decoders"].keys() >= {"MaskDecoder", "QueryDecoder"}
    assert found["text encoders"]["nano_clip"]["sha256"] == package_file("nano_clip")[1]
    assert "sam-adapter" in found["methods"]
    assert {"3dsam-adapter", "sam-adapter", "i-medsam", "dd-sam2", "dvpt"} < set(found["methods"])


def test_list_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert "segkit models download sam_vit_b" in out
    assert "sam3d_nano (64 px): ships with segkit" in out
    assert "nano_clip: ships with segkit" in out
    assert "lacks its file" not in out
    assert "HighFrequency: Add to each block's input a prompt" in out


def test_info_follows_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json(capsys, "info", "sam-adapter", "--compat", "authors")
    assert found["name"] == "sam-adapter"
    assert found["backbone"] == "sam_vit_b"
    assert found["compat"] == "authors"
    parameters = found["parameters"]
    assert parameters["trainable"] == 4_121_908
    assert parameters["parts"]["adapter"] == 63_312
    assert sum(parameters["parts"].values()) == parameters["total"]


def test_info_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "info", "nano"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("nano: SAM architecture")
    assert "trained" in out


def test_info_of_a_text_encoder(capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json(capsys, "info", "nano_clip")
    path, sha256 = package_file("nano_clip")
    assert (found["kind"], found["path"], found["sha256"]) == ("text encoder", str(path), sha256)
    assert found["size_bytes"] == path.stat().st_size
    assert "lesion" in found["words"]
    model = load_text_encoder("nano_clip").model
    counted = {"image": sum(p.numel() for p in model.visual.parameters())}  # type: ignore[union-attr]
    counted["text"] = sum(p.numel() for p in model.parameters()) - counted["image"]
    assert found["parameters"] == {"total": sum(counted.values()), "parts": counted}
    assert main(["models", "info", "nano_clip"]) == 0
    assert "--text-encoder nano_clip" in capsys.readouterr().out


def test_whatever_is_listed_has_facts(capsys: pytest.CaptureFixture[str]) -> None:
    listed = run_json(capsys, "list")
    for kind in ("adapters", "decoders"):
        for name, summary in listed[kind].items():
            found = run_json(capsys, "info", name)
            assert (found["kind"] + "s", found["summary"]) == (kind, summary)
    assert run_json(capsys, "info", "LoRA")["arguments"]["rank"] == 4
    assert "huggingface.co/microsoft/BiomedCLIP" in run_json(capsys, "info", "biomedclip")["url"]
    assert main(["models", "info", "HighFrequency"]) == 0
    assert "arguments   ratio=32, rate=0.25, compat=None" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["info", "sam-adaptr"], "did you mean 'sam-adapter'?"),
        (["info", "nano_clp"], "did you mean 'nano_clip'?"),
        (["info", "mine"], "adapters of yours need --in FOLDER"),
        (["info", "LoRA", "--compat", "authors"], "LoRA is no method; it takes neither"),
        (["info", "sam-adapter", "--backbone", "sam_vit_x"], "there is no backbone 'sam_vit_x'"),
        (["download", "nano"], "no official weight file is known for 'nano'"),
    ],
)
def test_refusals_say_what_exists(
    capsys: pytest.CaptureFixture[str], words: list[str], match: str
) -> None:
    assert main(["models", *words]) == 1
    error = capsys.readouterr().err
    assert match in error
    assert "Traceback" not in error


@pytest.mark.parametrize("words", [["info"], ["fetch"], ["info", "nano", "--compat", "paper"]])
def test_usage_errors_exit_with_2(words: list[str]) -> None:
    assert main(["models", *words]) == 2


def test_download_prints_the_path(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fetch(name: str, *, progress: object) -> Path:
        assert callable(progress)
        progress(50 << 20, 100 << 20)
        progress(100 << 20, 100 << 20)
        return tmp_path / name

    monkeypatch.setattr(weights, "download", fetch)
    assert main(["models", "download", "sam_vit_b", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["path"] == str(tmp_path / "sam_vit_b")
    assert captured.err.splitlines() == ["50 of 100 MiB", "100 of 100 MiB"]
