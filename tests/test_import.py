"""The top-level package stays light, and its public names exist."""

import subprocess
import sys

import pytest

import segkit

HEAVY = ("torch", "torchvision", "monai", "lightning", "hydra", "triton", "numpy")


def test_import_is_light() -> None:
    code = f"import sys, segkit; print(*[name for name in {HEAVY} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_import_takes_less_than_half_a_second() -> None:
    code = (
        "import time; start = time.process_time(); import segkit; "
        "print(time.process_time() - start)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 0.5


def loaded_by(code: str, names: tuple[str, ...]) -> list[str]:
    words = f"import sys; {code}; print(*[name for name in {names} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    return run.stdout.split()


def test_models_do_not_import_what_only_some_of_them_need() -> None:
    names = ("torch", "torchvision", "segment_anything", "timm", "monai", "lightning", "hydra")
    assert loaded_by("import segkit; segkit.Segmenter", names) == ["torch"]


def test_reading_and_measuring_do_not_import_torch() -> None:
    assert loaded_by("import segkit; segkit.load; segkit.measure", HEAVY[:-1]) == []


@pytest.mark.parametrize("name", segkit.__all__)
def test_every_public_name_exists(name: str) -> None:
    assert getattr(segkit, name) is not None
    assert name in dir(segkit)


def test_build_is_the_module_of_builders() -> None:
    assert segkit.build.sam_tiny.name == "sam_tiny"


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'Segmentor'.*'Segmenter'"):
        segkit.Segmentor  # noqa: B018
