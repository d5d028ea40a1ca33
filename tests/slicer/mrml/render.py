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
COLOURS = {"large": (0.9, 0.5, 0.2), "small": (0.2, 0.7, 0.9)}
Corners = list[tuple[int, int, int]]


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


def boxes(centre: tuple[int, int, int], radii: tuple[int, int, int]) -> list[Corners]:
    """Two corners on the slice through the middle of an ellipsoid and on two near its ends."""
    found = []
    for k in (centre[0] - radii[0] + 2, centre[0], centre[0] + radii[0] - 2):
        share = (1 - ((k - centre[0]) / radii[0]) ** 2) ** 0.5
        rows, columns = (round(share * radius) for radius in radii[1:])
        _, j, i = centre
        found.append([(k, j - rows, i - columns), (k, j + rows, i + columns)])
    return found


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


def draw(case: object, marks: list[Corners], path: Path) -> None:
    """Three slices through the large object and the surfaces, in one picture."""
    import matplotlib
    import slicer

    matplotlib.use("Agg")
    from matplotlib import pyplot

    voxels = slicer.util.arrayFromVolume(case.node)
    node = slicer.mrmlScene.GetNodeByID(case.segmentation)
    segmentation = node.GetSegmentation()
    spacing = case.node.GetSpacing()[::-1]
    figure, axes = pyplot.subplots(2, 2, figsize=(9, 9), facecolor="black")
    at = OBJECTS["large"][0]
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
        for first, last in marks:
            if axis == 0 and first[0] == at[0]:
                size = (last[2] - first[2], last[1] - first[1])
                place.add_patch(
                    pyplot.Rectangle(first[:0:-1], *size, fill=False, color="lime", linestyle=":")
                )
        place.set_title(f"{name} = {at[axis]}", color="white")
        place.axis("off")
    axes[1, 1].imshow(surfaces(node))
    axes[1, 1].set_title("closed surfaces", color="white")
    axes[1, 1].axis("off")
    figure.suptitle("composite of MRML data, not a Slicer screenshot", color="white")
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main() -> None:
    """Three boxes for each object, carried to the slices between them by a server; draw."""
    import bootstrap

    kept = bootstrap.start()
    import scenes
    import slicer
    from SegKitLib.marks import Propagate

    node = slicer.util.addVolumeFromArray(generated(), ijkToRAS=AFFINE, name="generated")
    case = scenes.case(node)
    case.bench.start_server(os.environ["SEGKIT_PYTHON"], ["nano"], dict(os.environ))
    assert case.bench.wait(300), case.bench.server.log
    segmentation = slicer.mrmlScene.GetNodeByID(case.segmentation).GetSegmentation()
    marks: list[Corners] = []
    for name, ellipsoid in OBJECTS.items():
        target, drawn = case.target(name), boxes(*ellipsoid)
        segmentation.GetSegment(target.segment).SetColor(*COLOURS[name])
        for corners in drawn:
            case.bench.mark(target, "box", scenes.markups(node, "Line", corners))
            case.settle()
        case.bench.controller.add(target, Propagate(drawn[0][0][0], drawn[-1][0][0] + 1))
        case.settle()
        marks += drawn
    draw(case, marks, EXTENSION / "Screenshots" / "slices.png")
    case.bench.close()
    del kept


if __name__ == "__main__":
    main()
