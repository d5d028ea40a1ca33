"""`segkit doctor` from the command line."""

import json
from pathlib import Path

import pytest

from segkit.cli import doctor
from segkit.cli.main import main


def test_json_states_what_works(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SEGKIT_HOME", str(tmp_path / "not" / "yet"))
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == []
    assert found["packages"]["torch"].startswith("2.")
    assert {"lightning", "timm", "segment-anything", "pydicom"} <= found["packages"].keys()
    assert "pytest" not in found["packages"]
    cpu = found["devices"][0]
    assert (cpu["device"], cpu["error"]) == ("cpu", None)
    assert cpu["threads"] >= 1
    assert {"dicom", "triton"} <= found["extras"].keys()
    assert not {"dev", "docs"} & found["extras"].keys()
    assert found["cache"] == {
        "folder": str(tmp_path / "not" / "yet"),
        "writable": True,
        "free_gib": found["cache"]["free_gib"],
    }
    assert not (tmp_path / "not").exists()
    assert set(found["torchvision"]) == {"version", "state", "has_operators"}
    assert found["triton"]["state"]


def test_text_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "cpu: works" in out
    assert out.rstrip().endswith("everything needed works")


def test_missing_packages_come_with_their_remedy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = doctor._version
    absent = ("timm", "highdicom")
    monkeypatch.setattr(
        doctor, "_version", lambda n: None if n in absent else installed(n) or "1.0"
    )
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "timm MISSING" in out
    assert "problem: timm is missing: pip install segkit" in out
    assert "dicom: lacks highdicom; get it with: pip install 'segkit[dicom]'" in out


def test_broken_device_and_cache_are_problems(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no kernel image\nis available")

    def deny(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.torch, "ones", fail)
    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", deny)
    monkeypatch.setenv("SEGKIT_HOME", str(tmp_path))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "problem: cpu does not compute: no kernel image" in out
    assert f"problem: {tmp_path} cannot be written: set SEGKIT_HOME" in out
