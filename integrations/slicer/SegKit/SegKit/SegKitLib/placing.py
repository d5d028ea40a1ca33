"""Tools: markups nodes that the user places in views, and that become marks."""

from collections.abc import Callable
from typing import Any

import slicer
from slicer.util import VTKObservationMixin

TOOLS = {
    "points": ("vtkMRMLMarkupsFiducialNode", 1),
    "box": ("vtkMRMLMarkupsLineNode", 2),
    "scribble": ("vtkMRMLMarkupsCurveNode", 2),
    "lasso": ("vtkMRMLMarkupsClosedCurveNode", 3),
}
"""Node class that is placed for each tool, and the control points it needs."""
ADDS, CLEARS = (0.1, 0.8, 0.2), (0.9, 0.2, 0.1)
"""Colours (red, green, blue) of marks that add to the object and that clear."""


class Placer(VTKObservationMixin):
    """One tool in hand at a time.

    Args:
        on_mark: Called with tool and markups node when something was placed; the node is emptied
            afterwards.
        on_put_down: Called when the tool is not in hand any more, for example after Escape.
        later: Calls a function when the current event is over.
    """

    def __init__(
        self,
        on_mark: Callable[[str, Any], None],
        on_put_down: Callable[[], None],
        later: Callable[[Callable[[], None]], None],
    ) -> None:
        VTKObservationMixin.__init__(self)
        self.tool = ""
        self._markups: Any = None
        self._on_mark, self._on_put_down, self._later = on_mark, on_put_down, later
        self._interaction = slicer.app.applicationLogic().GetInteractionNode()
        changed = self._interaction.InteractionModeChangedEvent
        self.addObserver(self._interaction, changed, self._on_mode)

    def take(self, tool: str, *, is_adding: bool) -> None:
        """Take a tool; clicks in the views belong to it."""
        self._drop()
        self.tool = tool
        self._markups = slicer.mrmlScene.AddNewNodeByClass(TOOLS[tool][0], f"SegKit {tool}")
        self._markups.SetSaveWithScene(False)
        self._markups.SetHideFromEditors(True)
        self._markups.CreateDefaultDisplayNodes()
        self.colour(is_adding=is_adding)
        placed = slicer.vtkMRMLMarkupsNode.PointPositionDefinedEvent
        self.addObserver(self._markups, placed, self._on_point)
        self._place()

    def colour(self, *, is_adding: bool) -> None:
        """Show whether the tool adds or clears."""
        if self._markups is not None:
            display = self._markups.GetDisplayNode()
            display.SetSelectedColor(*(ADDS if is_adding else CLEARS))
            display.SetPointLabelsVisibility(False)
            display.SetPropertiesLabelVisibility(False)

    def put_down(self) -> None:
        """Put the tool down; clicks belong to the views again."""
        if self.tool:
            self._drop()
            self._interaction.SwitchToViewTransformMode()
            self._on_put_down()

    def close(self) -> None:
        """Leave nothing behind."""
        self.put_down()
        self.removeObservers()

    def _drop(self) -> None:
        self.tool = ""
        if self._markups is not None:
            placed = slicer.vtkMRMLMarkupsNode.PointPositionDefinedEvent
            self.removeObserver(self._markups, placed, self._on_point)
            slicer.mrmlScene.RemoveNode(self._markups)
            self._markups = None

    def _place(self) -> None:
        if self._markups is not None:
            markups = slicer.modules.markups.logic()
            markups.SetActiveList(self._markups)
            is_persistent = self.tool == "points"
            markups.StartPlaceMode(is_persistent)

    def _on_point(self, *_: object) -> None:
        if self.tool == "points":
            self._finish()

    def _on_mode(self, *_: object) -> None:
        """Placing ends with the second corner of a box, a double or right click, or Enter."""
        is_placing = (
            self._interaction.GetCurrentInteractionMode() == slicer.vtkMRMLInteractionNode.Place
        )
        if not self.tool or is_placing:
            return
        if self.tool == "points" or self._count() < TOOLS[self.tool][1]:
            self.put_down()
        else:
            self._finish()
            self._later(self._place)

    def _finish(self) -> None:
        self._on_mark(self.tool, self._markups)
        self._markups.RemoveAllControlPoints()

    def _count(self) -> int:
        markups = self._markups
        return int(markups.GetNumberOfDefinedControlPoints())
