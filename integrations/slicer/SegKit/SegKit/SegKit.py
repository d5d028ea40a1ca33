"""Segment with promptable models of a `segkit serve`: module, panel, logic, test."""

import os
from pathlib import Path
from typing import Any

import ctk  # noqa: F401  (widgets of the panel)
import numpy as np
import qt
import slicer
from SegKitLib import marks
from SegKitLib.controller import ConsentError, State
from SegKitLib.marks import MarkError, SceneError, Target
from SegKitLib.placing import TOOLS, Placer
from SegKitLib.rehearsal import RehearsalPredictor
from SegKitLib.serverproc import ServerProcessError
from SegKitLib.workbench import Workbench
from slicer.parameterNodeWrapper import parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

POLL_MS = 30
LEARN_SECONDS = 25.0
SHORTCUTS = {
    "P": "pointsButton", "B": "boxButton", "S": "scribbleButton", "L": "lassoButton",
    "X": "clearsButton", "U": "undoButton", "Shift+U": "redoButton", "G": "propagateButton",
    "N": "newSegmentButton",
}  # fmt: skip
SETTINGS = {
    "SegKit/url": ("urlEdit", "text", "http://127.0.0.1:1527"),
    "SegKit/tokenFile": ("tokenFileEdit", "currentPath", ""),
    "SegKit/python": ("pythonEdit", "currentPath", ""),
    "SegKit/models": ("modelsEdit", "text", "nano"),
}
"""Application setting: widget, its property, default. Tokens are never stored, only their file."""
CONSENT = """The server {url} is not on this computer. The address {safety}.

Voxels and geometry of the volume will be sent: no patient name, no DICOM tags, no file name.

Send images to this server?"""


class SegKit(ScriptedLoadableModule):
    """Entry in the list of modules."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = "SegKit"
        self.parent.categories = ["Segmentation"]
        self.parent.dependencies = ["Markups", "Segmentations"]
        self.parent.contributors = ["segkit maintainers"]
        self.parent.helpText = (
            "Segment with points, boxes, scribbles and lassos. The models run in "
            "<code>segkit serve</code>, on this computer or another one. "
            'See the <a href="https://segkit.readthedocs.io">documentation</a>.'
        )
        self.parent.acknowledgementText = "Research use only; not a medical device."


@parameterNodeWrapper
class SegKitParameterNode:
    """What is saved with the scene."""

    volume: slicer.vtkMRMLScalarVolumeNode


class SegKitWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Panel: wires buttons to the logic, and shows what the controller says."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self._shortcuts: list[Any] = []
        self._guiTag = None

    def setup(self) -> None:
        """Build the panel."""
        ScriptedLoadableModuleWidget.setup(self)
        widget = slicer.util.loadUI(self.resourcePath("UI/SegKit.ui"))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.logic = SegKitLogic(on_change=self._show)
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MS)
        self._timer.connect("timeout()", self._poll)
        self._connect_buttons()
        self._load_settings()
        self._placer = Placer(
            self._mark, self._show_tool, lambda action: qt.QTimer.singleShot(0, action)
        )
        begin, end = slicer.mrmlScene.StartCloseEvent, slicer.mrmlScene.EndCloseEvent
        self.addObserver(slicer.mrmlScene, begin, self._on_scene_closing)
        self.addObserver(slicer.mrmlScene, end, self._on_scene_closed)
        self._bind_parameters()
        self._show()

    def enter(self) -> None:
        """Switch the keyboard shortcuts on while the panel is open."""
        for key, name in SHORTCUTS.items():
            shortcut = qt.QShortcut(qt.QKeySequence(key), slicer.util.mainWindow())
            shortcut.connect("activated()", getattr(self.ui, name).click)
            self._shortcuts.append(shortcut)
        escape = qt.QShortcut(qt.QKeySequence("Escape"), slicer.util.mainWindow())
        escape.connect("activated()", self._placer.put_down)
        self._shortcuts.append(escape)

    def exit(self) -> None:
        """Give the keys back to others."""
        self._save_settings()
        self._placer.put_down()
        for shortcut in self._shortcuts:
            shortcut.disconnect("activated()")
            shortcut.setParent(None)
        self._shortcuts.clear()

    def cleanup(self) -> None:
        """Leave the server and end the one started here."""
        self._timer.stop()
        self.exit()
        self._placer.close()
        self.removeObservers()
        self.logic.close()

    def _connect_buttons(self) -> None:
        ui, logic = self.ui, self.logic
        clicks = {
            ui.connectButton: self._on_connect,
            ui.testButton: self._on_test,
            ui.startButton: self._on_start,
            ui.newSegmentButton: self._add_segment,
            ui.undoButton: lambda: logic.controller.undo(self._target()),
            ui.redoButton: lambda: logic.controller.redo(self._target()),
            ui.propagateButton: self._on_propagate,
            ui.cancelButton: logic.controller.cancel,
            ui.retryButton: logic.controller.retry,
            ui.automaticButton: self._on_automatic,
            ui.acceptButton: lambda: logic.jobs.accept(self._target()),
            ui.learnButton: lambda: logic.jobs.learn(LEARN_SECONDS),
            ui.versionButton: self._on_version,
        }
        for button, action in clicks.items():
            button.connect("clicked(bool)", lambda _=False, action=action: self._run(action))
        ui.clearsButton.connect(
            "toggled(bool)", lambda is_on: self._placer.colour(is_adding=not is_on)
        )
        for tool in TOOLS:
            button = getattr(ui, f"{tool}Button")
            button.connect("clicked(bool)", lambda on, tool=tool: self._take(tool if on else ""))
        ui.modelCombo.connect("currentTextChanged(QString)", self._on_model)
        ui.overwriteCombo.connect("currentIndexChanged(int)", self._on_overwrite)
        ui.volumeSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._on_volume)

    # server

    def _on_connect(self) -> None:
        controller = self.logic.controller
        if controller.state is not State.OFF:
            controller.disconnect()
            return
        url, token = self.ui.urlEdit.text.strip(), self._token()
        try:
            controller.connect(url, token)
        except ConsentError:
            is_safe = url.startswith("https://")
            safety = "is encrypted" if is_safe else "is NOT encrypted: others may read along"
            if slicer.util.confirmYesNoDisplay(CONSENT.format(url=url, safety=safety)):
                controller.connect(url, token, has_consent=True)

    def _on_test(self) -> None:
        self.logic.controller.check(self.ui.urlEdit.text.strip(), self._token())

    def _on_start(self) -> None:
        if self.logic.server is None:
            models = self.ui.modelsEdit.text.split()
            environment = slicer.util.startupEnvironment()
            self.logic.start_server(self.ui.pythonEdit.currentPath, models, environment)
        else:
            self.logic.stop_server()
        self._show()

    def _token(self) -> str:
        path = self.ui.tokenFileEdit.currentPath
        try:
            return Path(path).read_text(encoding="utf-8").strip() if path else ""
        except (OSError, UnicodeDecodeError) as error:
            raise ServerProcessError(f"the token file {path} cannot be read") from error

    def _load_settings(self) -> None:
        for key, (name, property_name, default) in SETTINGS.items():
            getattr(self.ui, name).setProperty(property_name, qt.QSettings().value(key, default))

    def _save_settings(self) -> None:
        for key, (name, property_name, _) in SETTINGS.items():
            qt.QSettings().setValue(key, getattr(self.ui, name).property(property_name))

    # marking

    def _volume(self) -> str:
        volume = self.ui.volumeSelector.currentNode()
        if volume is None:
            raise SceneError("choose a volume first")
        return str(volume.GetID())

    def _segmentation(self) -> str:
        """The chosen segmentation; a new one if none is chosen."""
        chosen = self.ui.segmentSelector.currentNodeID()
        found = self.logic.scene.segmentation_of(self._volume(), chosen)
        if found != chosen:
            self.ui.segmentSelector.setCurrentNodeID(found)
        return found

    def _target(self) -> Target:
        segmentation = self._segmentation()
        if not self.ui.segmentSelector.currentSegmentID():
            self._add_segment()
        return Target(self._volume(), segmentation, self.ui.segmentSelector.currentSegmentID())

    def _add_segment(self) -> None:
        segment = self.logic.scene.add_segment(self._segmentation())
        self.ui.segmentSelector.setCurrentSegmentID(segment)

    def _take(self, tool: str) -> None:
        if tool:
            self._placer.take(tool, is_adding=not self.ui.clearsButton.checked)
        else:
            self._placer.put_down()
        self._show_tool()

    def _show_tool(self) -> None:
        for name in TOOLS:
            getattr(self.ui, f"{name}Button").checked = name == self._placer.tool

    def _mark(self, tool: str, markups: Any) -> None:
        label = 0 if self.ui.clearsButton.checked else 1
        self._run(lambda: self.logic.mark(self._target(), tool, markups, label))

    def _on_propagate(self) -> None:
        first, last = self.ui.firstSliceSpin.value, self.ui.lastSliceSpin.value
        mark = marks.Propagate(min(first, last), max(first, last) + 1)
        self.logic.controller.add(self._target(), mark)

    def _on_automatic(self) -> None:
        model = self.ui.automaticCombo.currentText
        self.logic.jobs.segment_all(self._volume(), self._segmentation(), model)

    def _on_version(self) -> None:
        text = self.ui.versionCombo.currentText
        if text:
            self.logic.jobs.choose(int(text))

    def _run(self, action: Any) -> None:
        try:
            action()
        except (MarkError, SceneError, ServerProcessError) as error:
            self.ui.statusLabel.text = str(error)
        self._timer.start()

    # state

    def _poll(self) -> None:
        has_more = self.logic.poll()
        self._show_progress()
        if not has_more:
            self._timer.stop()

    def _show(self) -> None:
        controller, ui = self.logic.controller, self.ui
        is_on = controller.state in (State.READY, State.BUSY)
        ui.statusLabel.text = controller.message or controller.state.value
        ui.statusLabel.styleSheet = "color: #c0392b" if controller.is_error else ""
        ui.connectButton.text = "Connect" if controller.state is State.OFF else "Disconnect"
        ui.startButton.text = "Start" if self.logic.server is None else "Stop"
        ui.markBox.enabled = ui.automaticBox.enabled = ui.learningBox.enabled = is_on
        ui.retryButton.visible = controller.is_error and controller.waiting > 0
        ui.cancelButton.enabled = controller.state is State.BUSY
        _fill(ui.modelCombo, controller.names("interactive"), controller.model)
        _fill(ui.automaticCombo, controller.names("automatic"), ui.automaticCombo.currentText)
        chosen = next((one for one in controller.models if one["name"] == controller.model), {})
        versions = [str(version) for version in chosen.get("versions", [])]
        _fill(ui.versionCombo, versions, str(chosen.get("version", "")))
        self._show_progress()

    def _show_progress(self) -> None:
        progress = self.logic.controller.progress
        self.ui.progressBar.visible = progress is not None
        if progress is not None:
            self.ui.progressBar.setRange(0, progress[1])
            self.ui.progressBar.value = progress[0]

    def _on_model(self, name: str) -> None:
        if name:
            self.logic.controller.model = name

    def _on_overwrite(self, index: int) -> None:
        self.logic.scene.overwrite = ("none", "visible", "all")[index]

    def _on_volume(self, volume: Any) -> None:
        if volume is not None and volume.GetImageData() is not None:
            last = self.logic.scene.shape(volume.GetID())[0] - 1
            for spin in (self.ui.firstSliceSpin, self.ui.lastSliceSpin):
                spin.setRange(0, last)
            self.ui.lastSliceSpin.value = last

    def _on_scene_closing(self, *_: object) -> None:
        self._placer.put_down()
        self.logic.controller.disconnect()
        if self._guiTag is not None:
            self._parameters.disconnectGui(self._guiTag)
            self._guiTag = None

    def _on_scene_closed(self, *_: object) -> None:
        self.logic.scene.reopen()
        self._bind_parameters()

    def _bind_parameters(self) -> None:
        self._parameters = SegKitParameterNode(self.logic.getParameterNode())
        self._guiTag = self._parameters.connectGui(self.ui)


class SegKitLogic(ScriptedLoadableModuleLogic, Workbench):
    """What the panel does; usable from Python without the panel, see `Workbench`."""

    def __init__(self, **options: Any) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        Workbench.__init__(self, slicer.mrmlScene, **options)


class SegKitTest(ScriptedLoadableModuleTest):
    """Runs inside Slicer without a model; with SEGKIT_PYTHON also against a server of its own."""

    def setUp(self) -> None:
        """Start from an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """Run everything."""
        self.setUp()
        self.test_marks_become_segments()
        python = os.environ.get("SEGKIT_PYTHON")
        if python:
            self.setUp()
            self.test_own_server(python)

    def test_marks_become_segments(self) -> None:
        """A click on a volume under a transform changes one segment; undo takes it back."""
        logic = SegKitLogic(connect=RehearsalPredictor)
        logic.controller.connect("http://127.0.0.1:1")
        self._click_and_undo(logic)
        logic.close()

    def test_own_server(self, python: str) -> None:
        """The same with `segkit serve -m nano`."""
        logic = SegKitLogic()
        logic.start_server(python, ["nano"], slicer.util.startupEnvironment())
        self._click_and_undo(logic)
        logic.close()

    def _click_and_undo(self, logic: SegKitLogic) -> None:
        array = np.zeros((12, 40, 48), np.int16)
        array[3:9, 12:28, 14:34] = 900
        volume = slicer.util.addVolumeFromArray(array, ijkToRAS=np.diag([0.8, 1.0, 3.0, 1.0]))
        segmentation = logic.scene.segmentation_of(volume.GetID())
        segment = logic.scene.add_segment(segmentation, "block")
        target = Target(volume.GetID(), segmentation, segment)
        assert logic.wait()
        logic.controller.add(target, marks.click(np.array([6.0, 20.0, 24.0]), array.shape))
        assert logic.wait()
        assert logic.scene.mask(target)[6, 20, 24], logic.controller.message
        logic.controller.undo(target)
        assert logic.wait()
        assert not logic.scene.mask(target).any()


def _fill(combo: Any, texts: list[str], chosen: str) -> None:
    """Show other texts without telling anybody that the choice changed."""
    if [combo.itemText(index) for index in range(combo.count)] != texts or (
        combo.currentText != chosen
    ):
        was_blocked = combo.blockSignals(True)
        combo.clear()
        combo.addItems(texts)
        combo.setCurrentText(chosen)
        combo.blockSignals(was_blocked)
