"""Names of packages that are imported at their first use."""

import inspect
import sys
from types import ModuleType

import pytest

import segkit.backbones
import segkit.decoders
import segkit.models
import segkit.planning
import segkit.predictors
import segkit.prompts
from segkit.lazy import attributes

PACKAGES = (
    segkit.backbones, segkit.decoders, segkit.models, segkit.planning, segkit.predictors,
    segkit.prompts,
)  # fmt: skip


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    made, inner = ModuleType("made"), ModuleType("made.inner")
    made.__getattr__, made.__dir__ = attributes("made", {"inner": ("one",)})
    inner.one = 1
    monkeypatch.setitem(sys.modules, "made", made)
    monkeypatch.setitem(sys.modules, "made.inner", inner)
    return made


def test_a_name_is_kept_once_it_was_used(package: ModuleType) -> None:
    assert "one" not in vars(package)
    assert package.one == vars(package)["one"] == 1


def test_all_names_are_listed_before_they_are_used(package: ModuleType) -> None:
    assert "one" in dir(package)
    assert ("one", 1) in inspect.getmembers(package)


def test_unknown_name_lists_the_known_ones(package: ModuleType) -> None:
    with pytest.raises(AttributeError, match=r"'made' has no attribute 'two'; it has \['one'\]"):
        package.two  # noqa: B018


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_what_a_type_checker_sees_is_what_there_is(package: ModuleType) -> None:
    lines = inspect.getsource(package).splitlines()
    seen = {line.split()[-1] for line in lines if line.startswith("    from ")}
    given = {
        name
        for name, value in inspect.getmembers(package)
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert seen == given - {"TYPE_CHECKING", "attributes"} != set()
