import argparse
import json
from pathlib import Path

import pytest
import torch

from segkit.backbones.sam_modules import TINY, SamModules
from segkit.cli import convert
from segkit.cli.arguments import convert as flags
from segkit.errors import CheckpointError
from segkit.models.conversion import families


@pytest.fixture
def source(tmp_path: Path) -> Path:
    torch.save(SamModules(TINY).state_dict(), path := tmp_path / "sam.pth")
    return path


def call(*words: str) -> int:
    parser = argparse.ArgumentParser()
    flags.add_parser(parser.add_subparsers(required=True))
    return convert.run(parser.parse_args(["convert", *words]))


def test_json_record_names_source_and_outputs(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = source.with_name("sam.safetensors")
    assert call("--from", "sam", str(source), "-o", str(out), "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["format"] == 1
    assert record["backbone"] == "sam_tiny"
    assert record["outputs"] == {"weights": str(out)}
    assert record["tensors"] == len(SamModules(TINY).state_dict())
    assert out.stat().st_size > 0


def test_text_names_output_and_notes(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = source.with_name("medsam.safetensors")
    assert call("--from", "medsam", str(source), "-o", str(out)) == 0
    text = capsys.readouterr().out
    assert f"weights   {out}" in text
    assert "note      MedSAM does not subtract" in text


def test_files_of_another_family_are_refused_by_name(source: Path) -> None:
    with pytest.raises(CheckpointError, match=r"sam\.pth: keys are not those of 'stu-net'"):
        call("--from", "stu-net", str(source), "-o", str(source.with_name("x.safetensors")))


def test_k01_payload_is_refused(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str, ...]]:
            return open, (str(tmp_path / "canary"), "w")

    torch.save({"w": Payload()}, path := tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="which is no weight"):
        call("--from", "sam", str(path), "-o", str(tmp_path / "x.safetensors"))
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]


def test_help_names_every_family() -> None:
    assert list(flags.FAMILIES) == families()


def test_help_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        call("--help")
    assert stop.value.code == 0
    assert "segkit convert --from sam sam_vit_b_01ec64.pth" in capsys.readouterr().out
