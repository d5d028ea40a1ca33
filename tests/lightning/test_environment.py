"""Facts of `environment.json`."""

import subprocess
from pathlib import Path

import pytest
import torch

import segkit
from segkit.lightning import environment as module
from segkit.lightning.environment import environment, git_commit


def test_versions_device_and_data_are_stated() -> None:
    facts = environment(data="abc", device=torch.device("cpu"), seed=3)
    assert facts["packages"]["torch"] == torch.__version__
    assert facts["device"].startswith("cpu ")
    assert (facts["data"], facts["seed"]) == ("abc", 3)


def test_commit_is_that_of_the_checkout_and_edits_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "segkit").mkdir()
    code = tmp_path / "segkit" / "__init__.py"
    code.write_text("1\n")
    monkeypatch.setattr(segkit, "__file__", str(code))
    assert git_commit() is None  # a wheel

    def git(*words: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e@x"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *words],
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    git("init")
    git("add", "segkit")
    git("commit", "-m", "One")
    assert git_commit() == git("rev-parse", "HEAD")
    code.write_text("2\n")
    assert git_commit() == git("rev-parse", "HEAD") + "+"


def test_missing_package_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKAGES", ("torch", "no-such-package"))
    assert list(module.package_versions()) == ["torch"]
