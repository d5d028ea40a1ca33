"""What README and docstrings show really runs."""

import doctest
import importlib
import pkgutil
import re
from functools import partial
from inspect import getmembers
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

import segkit
import segkit.adapters
import segkit.backbones
from segkit.cli.main import COMMANDS
from segkit.typing import Grid

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ASSUMED = dict(getmembers(segkit.adapters) + getmembers(segkit.backbones)) | {
    "torch": torch,
    "partial": partial,
    "Grid": Grid,
}
"""Names that examples of adapters and backbones use without importing them."""
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def modules() -> list[str]:
    names = (info.name for info in pkgutil.walk_packages(segkit.__path__, "segkit."))
    return [name for name in names if ">>> " in _source(name)]


def _source(name: str) -> str:
    path = ROOT / name.replace(".", "/")
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()


@pytest.mark.parametrize("name", modules())
def test_docstring_examples_run(name: str) -> None:
    module = importlib.import_module(name)
    found = doctest.DocTestFinder().find(module, extraglobs=ASSUMED)
    tests = [test for test in found if test.examples]
    assert tests
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in tests:
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


@pytest.mark.parametrize("page", ["README.md", "docs/guide/predict.md", "docs/guide/volumes.md"])
def test_snippets_about_prediction_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.random.default_rng(0).integers(0, 500, size=(128, 160, 60)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([0.8, 0.8, 2.5, 1.0])), tmp_path / "ct.nii.gz")
    monkeypatch.chdir(tmp_path)
    blocks = [code for code in BLOCK.findall((ROOT / page).read_text()) if "predictor" in code]
    assert blocks
    for code in blocks:
        exec(compile(code, page, "exec"), {})
    assert nibabel.load(tmp_path / "mask.nii.gz").shape == (128, 160, 60)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_experiments_in_the_pages_exist(page: Path) -> None:
    text = page.read_text()
    for command in re.findall(r"^(?:\$ )?segkit (\w+)", text, re.MULTILINE):
        assert command in COMMANDS
    for name in re.findall(r"experiment=(\w+)", text):
        if name.isupper():
            continue
        assert (ROOT / "configs" / "experiment" / f"{name}.yaml").exists(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
