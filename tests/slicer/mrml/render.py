"""Pictures of what the extension did, drawn from MRML (`make slicer-pictures`).

These are composites, not screenshots of the application: slices are drawn from MRML arrays, the 3D
view with VTK off the screen.
"""

import os
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
EXTENSION = HERE.parents[2] / "integrations" / "slicer" / "SegKit"
sys.path[:0] = [str(HERE), str(EXTENSION / "SegKit")]

SHAPE = (40, 128, 128)
AFFINE = np.array([[-1.4, 0.1, 0.2, 90], [0.1, -1.4, 0.3, 90], [0.05, 0.1, 4.0, -80], [0, 0, 0, 1]])
OBJECTS = {"large": ((20, 58, 50), (9, 26, 20)), "small": ((19, 70, 91), (6, 13, 14))}


def generated() -> np.ndarray:
    """A body with two bright ellipsoids in noise."""
    random = np.random.default_rng(3)
    k, j, i = np.indices(SHAPE)
    voxels = random.normal(0, 12, SHAPE)
    voxels[((j - 64) / 56) ** 2 + ((i - 64) / 60) ** 2 < 1] += 90
    for (ck, cj, ci), (rk, rj, ri) in OBJECTS.values():
        ball = ((k - ck) / rk) ** 2 + ((j - cj) / rj) ** 2 + ((i - ci) / ri) ** 2
        voxels[ball < 1] += 110
    return voxels.astype(np.int16)


def surfaces(node: object, size: int = 700) -> np.ndarray:
    """The closed surfaces of a segmentation node, rendered off the screen."""
    import vtk
    from vtk.util import numpy_support

    node.CreateClosedSurfaceRepresentation()
    renderer = vtk.vtkRenderer()
    renderer.SetBackground(0.75, 0.77, 0.88)
    for index in range(node.GetSegmentation().GetNumberOfSegments()):
        segment = node.GetSegmentation().GetNthSegment(index)
        surface = vtk.vtkPolyData()
        node.GetClosedSurfaceRepresentation(node.GetSegmentation().GetNthSegmentID(index), surface)
        mapper = vtk.vtkPolyDataMapper()
        mapper.SetInputData(surface)
        mapper.ScalarVisibilityOff()
        actor = vtk.vtkActor()
        actor.SetMapper(mapper)
        actor.GetProperty().SetColor(segment.GetColor())
        renderer.AddActor(actor)
    window = vtk.vtkRenderWindow()
    window.SetOffScreenRendering(1)
    window.SetSize(size, size)
    window.AddRenderer(renderer)
    renderer.GetActiveCamera().SetPosition(-0.4, 1.0, 0.35)
    renderer.GetActiveCamera().SetViewUp(0, 0, 1)
    renderer.ResetCamera()
    window.Render()
    grab = vtk.vtkWindowToImageFilter()
    grab.SetInput(window)
    grab.ReadFrontBufferOff()
    grab.Update()
    pixels = numpy_support.vtk_to_numpy(grab.GetOutput().GetPointData().GetScalars())
    return pixels.reshape(size, size, -1)[::-1]


def draw(case: object, clicks: dict[str, tuple[int, int, int]], path: Path) -> None:
    """Three slices through the first click and the surfaces, in one picture."""
    import matplotlib
    import slicer

    matplotlib.use("Agg")
    from matplotlib import pyplot

    voxels = slicer.util.arrayFromVolume(case.node)
    node = slicer.mrmlScene.GetNodeByID(case.segmentation)
    segmentation = node.GetSegmentation()
    spacing = case.node.GetSpacing()[::-1]
    figure, axes = pyplot.subplots(2, 2, figsize=(9, 9), facecolor="black")
    at = clicks["large"]
    names = ("slice k", "slice j", "slice i")
    for axis, (name, place) in enumerate(
        zip(names, (axes[0, 0], axes[0, 1], axes[1, 0]), strict=True)
    ):
        rows, columns = (one for one in range(3) if one != axis)
        place.imshow(
            voxels.take(at[axis], axis), cmap="gray", aspect=spacing[rows] / spacing[columns]
        )
        for index in range(segmentation.GetNumberOfSegments()):
            segment = segmentation.GetNthSegmentID(index)
            held = slicer.util.arrayFromSegmentBinaryLabelmap(node, segment, case.node) > 0
            colour = segmentation.GetSegment(segment).GetColor()
            if held.take(at[axis], axis).any():
                place.contour(held.take(at[axis], axis), [0.5], colors=[colour], linewidths=2)
        for click in clicks.values():
            if abs(click[axis] - at[axis]) <= 1:
                place.plot(click[columns], click[rows], "+", color="lime", markersize=12)
        place.set_title(f"{name} = {at[axis]}", color="white")
        place.axis("off")
    axes[1, 1].imshow(surfaces(node))
    axes[1, 1].set_title("closed surfaces", color="white")
    axes[1, 1].axis("off")
    figure.suptitle("composite of MRML data, not a Slicer screenshot", color="white")
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main() -> None:
    """Click twice on a server, carry both objects through the volume, draw."""
    import bootstrap

    kept = bootstrap.start()
    import scenes
    import slicer
    from SegKitLib.marks import Propagate

    node = slicer.util.addVolumeFromArray(generated(), ijkToRAS=AFFINE, name="generated")
    case = scenes.case(node)
    case.bench.start_server(os.environ["SEGKIT_PYTHON"], ["nano"], dict(os.environ))
    assert case.bench.wait(300), case.bench.server.log
    clicks = {}
    for name, (centre, (radius, *_)) in OBJECTS.items():
        target, clicks[name] = case.target(name), centre
        case.bench.mark(target, "points", scenes.markups(node, "Fiducial", [centre]))
        case.settle()
        case.bench.controller.add(target, Propagate(centre[0] - radius + 1, centre[0] + radius))
        case.settle()
    draw(case, clicks, EXTENSION / "Screenshots" / "slices.png")
    case.bench.close()
    del kept


if __name__ == "__main__":
    main()
