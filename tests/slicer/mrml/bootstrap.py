"""MRML scene, colours and module logics from `slicer-core`, as the application has them."""

from types import SimpleNamespace

import slicer
import slicer.util
import vtk

_LOGICS = (
    "vtkSlicerTerminologiesModuleLogic",
    "vtkSlicerVolumesLogic",
    "vtkSlicerSegmentationsModuleLogic",
    "vtkSlicerMarkupsLogic",
    "vtkSlicerSubjectHierarchyModuleLogic",
)
_FACTORIES = (
    "vtkMRMLThreeDViewDisplayableManagerFactory",
    "vtkMRMLSliceViewDisplayableManagerFactory",
)


def start() -> list[object]:
    """Give `slicer` a fresh scene; keep the result, since logics live as long as it does."""
    slicer.util.vtk = vtk  # in the application it is there by itself
    scene = slicer.vtkMRMLScene()
    application = slicer.vtkSlicerApplicationLogic()
    slicer.mrmlScene = scene
    application.SetMRMLScene(scene)
    application.GetColorLogic().SetMRMLScene(scene)
    application.GetColorLogic().AddDefaultColorNodes()
    views = vtk.vtkCollection(), vtk.vtkCollection()
    application.SetSliceLogics(views[0])
    application.SetViewLogics(views[1])
    for name in _FACTORIES:
        getattr(slicer, name).GetInstance().SetMRMLApplicationLogic(application)
    colours = slicer.vtkMRMLColorLogic()
    colours.SetMRMLScene(scene)
    application.SetModuleLogic("Colors", colours)
    kept: list[object] = [scene, application, colours, *views]
    slicer.modules = SimpleNamespace()
    for name in _LOGICS:
        logic = getattr(slicer, name)()
        logic.SetMRMLApplicationLogic(application)
        logic.SetMRMLScene(scene)
        short = name.removeprefix("vtkSlicer").removesuffix("Logic").removesuffix("Module")
        application.SetModuleLogic(short, logic)
        setattr(slicer.modules, short.lower(), SimpleNamespace(logic=lambda one=logic: one))
        kept.append(logic)
    slicer.app = SimpleNamespace(applicationLogic=lambda: application, processEvents=lambda: None)
    return kept
