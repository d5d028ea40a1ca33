"""The wheel works without the checkout: installed into a clean environment, run elsewhere."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Command runner of an environment that holds the wheel and sees our dependencies only."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    # a copy: several test processes may build at the same time
    for name in ("segkit", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*build, str(source)], check=True, capture_output=True)
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--quiet"]
    subprocess.run([*pip, *map(str, folder.glob("*.whl"))], check=True, capture_output=True)
    site = next((folder / "venv").glob("lib/python*/site-packages"))
    # dependencies come from here; a .pth line does not run their editable-install hooks
    (site / "zz_dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(python.parent / command[0]), *command[1:]],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_package_comes_from_the_wheel(installed: Run) -> None:
    result = installed("python", "-c", "import segkit; print(segkit.__file__)")
    assert "site-packages" in result.stdout
    assert str(ROOT) not in result.stdout


def test_command_line_shows_its_commands(installed: Run) -> None:
    result = installed("segkit", "--help")
    assert result.returncode == 0, result.stderr
    for command in ("demo", "train", "eval", "predict", "convert", "models", "measure", "doctor"):
        assert command in result.stdout


def test_configs_are_part_of_the_wheel(installed: Run) -> None:
    result = installed("segkit", "train", "experiment=demo", "data.root=x", "--cfg", "job")
    assert result.returncode == 0, result.stderr
    assert "segkit" in result.stdout


def test_nano_is_part_of_the_wheel(installed: Run) -> None:
    code = "import segkit; print(sum(p.numel() for p in segkit.build.nano().parameters()))"
    result = installed("python", "-c", code)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 1_000_000


def test_error_of_an_installed_command_is_one_paragraph(installed: Run) -> None:
    result = installed("segkit", "predict", "missing.nii.gz", "-m", "nano", "-o", "out.nii.gz")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "missing.nii.gz" in result.stderr
