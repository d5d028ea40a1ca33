"""The module file with stand-ins for Qt and MRML: it imports, and its panel wires up."""

import importlib
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from test_slicer_package import UI

MODULES = ("vtk", "vtk.util", "qt", "ctk", "slicer", "slicer.util", "slicer.parameterNodeWrapper")


class _Widget(MagicMock):
    """A widget that remembers what is connected to its signals."""

    def connect(self, signal: str, slot: Any) -> None:
        self.__dict__.setdefault("slots", {})[signal] = slot

    def emit(self, signal: str, *args: object) -> None:
        self.__dict__["slots"][signal](*args)


class _Base:
    def __init__(self, parent: Any = None) -> None:
        self.parent = self.layout = parent or MagicMock()

    def setup(self) -> None:
        pass

    def resourcePath(self, name: str) -> str:
        return name

    def getParameterNode(self) -> object:
        return object()


class _Observer:
    def addObserver(self, *_: object) -> None:
        pass

    removeObserver = addObserver

    def removeObservers(self) -> None:
        pass


@pytest.fixture
def segkit(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module SegKit, imported among stand-ins."""
    for name in MODULES:
        monkeypatch.setitem(sys.modules, name, MagicMock(name=name, __path__=[]))
    slicer = sys.modules["slicer"]
    slicer.util = sys.modules["slicer.util"]
    slicer.util.VTKObservationMixin = _Observer
    slicer.util.startupEnvironment = lambda: {}
    present = {one.get("name"): _Widget() for one in ET.parse(UI).getroot().iter("widget")}
    slicer.util.childWidgetVariables = lambda _: SimpleNamespace(**present)
    sys.modules["slicer.parameterNodeWrapper"].parameterNodeWrapper = lambda _: MagicMock()
    scripted = ModuleType("slicer.ScriptedLoadableModule")
    for kind in ("", "Widget", "Logic", "Test"):
        setattr(scripted, f"ScriptedLoadableModule{kind}", type(f"Base{kind}", (_Base,), {}))
    monkeypatch.setitem(sys.modules, scripted.__name__, scripted)
    fresh = [name for name in sys.modules if name.startswith("SegKit")]
    for name in fresh:
        monkeypatch.delitem(sys.modules, name)
    yield importlib.import_module("SegKit")
    for name in [name for name in sys.modules if name.startswith("SegKit")]:
        del sys.modules[name]


def test_the_four_classes_are_there(segkit: Any) -> None:
    for name in ("SegKit", "SegKitWidget", "SegKitLogic", "SegKitTest"):
        assert isinstance(getattr(segkit, name), type)
    module = segkit.SegKit(MagicMock())
    assert module.parent.categories == ["Segmentation"]


def test_the_panel_wires_up_and_shows_messages(segkit: Any) -> None:
    panel = segkit.SegKitWidget()
    panel.setup()
    ui = panel.ui
    assert ui.statusLabel.text == "not connected"
    assert ui.connectButton.text == "Connect"
    assert ui.markBox.enabled is False
    ui.volumeSelector.currentNode.return_value = None
    ui.newSegmentButton.emit("clicked(bool)", False)
    assert ui.statusLabel.text == "choose a volume first"
    ui.overwriteCombo.emit("currentIndexChanged(int)", 2)
    assert panel.logic.scene.overwrite == "all"
    panel.enter()
    assert len(panel._shortcuts) == len(segkit.SHORTCUTS) + 1
    panel.exit()
    assert panel._shortcuts == []
    panel.cleanup()


def test_consent_is_asked_before_images_leave_this_machine(segkit: Any) -> None:
    panel = segkit.SegKitWidget()
    panel.setup()
    confirm = sys.modules["slicer.util"].confirmYesNoDisplay
    confirm.return_value = False
    panel.ui.urlEdit.text = "http://seg.example.org"
    panel.ui.tokenFileEdit.currentPath = ""
    panel.ui.connectButton.emit("clicked(bool)", False)
    (question,) = confirm.call_args.args
    assert "NOT encrypted" in question
    assert panel.ui.statusLabel.text == "not connected"
    panel.ui.tokenFileEdit.currentPath = "/no/such/file"
    panel.ui.testButton.emit("clicked(bool)", False)
    assert "cannot be read" in panel.ui.statusLabel.text
    panel.cleanup()


def test_an_own_server_that_fails_says_why(segkit: Any) -> None:
    panel = segkit.SegKitWidget()
    panel.setup()
    panel.ui.pythonEdit.currentPath = "/no/such/python"
    panel.ui.modelsEdit.text = "nano"
    panel.ui.startButton.emit("clicked(bool)", False)
    assert "choose the Python that has segkit" in panel.ui.statusLabel.text
    assert panel.ui.startButton.text == "Start"
    panel.cleanup()
