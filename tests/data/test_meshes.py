import base64
import math
import re
import struct
from pathlib import Path

import numpy as np
import pytest

from segkit.data.meshes import Mesh, is_mesh, save_surface, surface, write_mesh
from segkit.data.volume import Picture
from segkit.errors import InputError
from segkit.geometry import Geometry

CENTRE, RADIUS = np.array([4.0, -7.0, 11.0]), 9.0


def frame(flip: float = 1.0) -> Geometry:
    """An oblique grid with unequal steps; `flip` -1 mirrors it."""
    angle = 0.4
    turn = np.array(
        [[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([flip * 0.8, 1.1, 1.5])
    shape = (24, 30, 36)
    middle = affine[:3, :3] @ ((np.array(shape[::-1]) - 1) / 2)
    affine[:3, 3] = CENTRE - middle
    return Geometry(shape, affine)


def sphere(geometry: Geometry) -> np.ndarray:
    index = np.indices(geometry.shape).reshape(3, -1).T.astype(float)
    distance = np.linalg.norm(geometry.to_world_mm(index, "ras") - CENTRE, axis=1)
    return (RADIUS - distance).reshape(geometry.shape).astype(np.float32)


@pytest.mark.parametrize("flip", [1.0, -1.0])
def test_a_sphere_lies_where_it_is_in_the_patient(flip: float) -> None:
    geometry = frame(flip)
    mesh = surface(sphere(geometry), geometry)
    radii = np.linalg.norm(mesh.vertices_mm - CENTRE, axis=1)
    assert np.abs(radii - RADIUS).max() < 0.1
    assert mesh.volume_ml == pytest.approx(4 / 3 * math.pi * RADIUS**3 / 1000, rel=0.02)
    corners = mesh.vertices_mm[mesh.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    outwards = np.einsum("fi,fi->f", normals, corners.mean(1) - CENTRE)
    assert (outwards > 0).mean() > 0.99


def test_masks_that_reach_the_border_are_closed() -> None:
    geometry = Geometry.from_spacing((4, 5, 6), (3.0, 2.0, 1.0))
    logits = np.full((4, 5, 6), np.inf, dtype=np.float32)
    mesh = surface(logits, geometry)
    edges = np.sort(np.concatenate([mesh.faces[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0))]))
    _, counts = np.unique(edges, axis=0, return_counts=True)
    assert set(counts) == {2}
    assert mesh.volume_ml == pytest.approx(4 * 5 * 6 * 6 / 1000, rel=0.1)  # corners are cut


@pytest.fixture
def tetrahedron() -> Mesh:
    vertices = np.array([[0, 0, 0], [10, 0, 0], [0, 10, 0], [0, 0, 10.5]])
    return Mesh(vertices, np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], dtype=np.int32))


def test_stl(tmp_path: Path, tetrahedron: Mesh) -> None:
    content = write_mesh(tmp_path / "x.stl", tetrahedron).read_bytes()
    assert content[:80].rstrip() == b"segkit surface, mm, space RAS"
    assert struct.unpack("<I", content[80:84]) == (4,)
    assert len(content) == 84 + 4 * 50
    facet = struct.unpack("<12fH", content[84:134])
    assert facet[:3] == pytest.approx((0, 0, -1))
    assert facet[3:12] == pytest.approx((0, 0, 0, 0, 10, 0, 10, 0, 0))


def test_ply(tmp_path: Path, tetrahedron: Mesh) -> None:
    head, _, body = write_mesh(tmp_path / "x.ply", tetrahedron).read_bytes().partition(b"header\n")
    assert b"element vertex 4\n" in head
    assert b"comment segkit surface, mm, space RAS\n" in head
    points = np.frombuffer(body[:48], "<f4").reshape(4, 3)
    np.testing.assert_allclose(points, tetrahedron.vertices_mm)
    assert struct.unpack("<B3i", body[48:61]) == (3, 0, 2, 1)
    assert len(body) == 48 + 4 * 13


def test_vtp(tmp_path: Path, tetrahedron: Mesh) -> None:
    text = write_mesh(tmp_path / "x.vtp", tetrahedron).read_text()
    assert 'NumberOfPoints="4" NumberOfPolys="4"' in text
    found = [base64.b64decode(one) for one in re.findall(r'format="binary">([^<]+)<', text)]
    assert [struct.unpack("<I", one[:4])[0] for one in found] == [48, 48, 16]
    np.testing.assert_allclose(
        np.frombuffer(found[0][4:], "<f4").reshape(4, 3), tetrahedron.vertices_mm
    )
    assert np.frombuffer(found[1][4:], "<i4").tolist() == tetrahedron.faces.ravel().tolist()
    assert np.frombuffer(found[2][4:], "<i4").tolist() == [3, 6, 9, 12]


def test_what_has_no_surface_is_refused(tmp_path: Path, tetrahedron: Mesh) -> None:
    geometry = Geometry.from_spacing((2, 2, 2), (1.0, 1.0, 1.0))
    with pytest.raises(InputError, match="the mask is empty: it has no surface; check the prompts"):
        surface(np.full((2, 2, 2), -1.0, dtype=np.float32), geometry)
    with pytest.raises(InputError, match=r"shape \(2, 2\) do not lie on the grid \(2, 2, 2\)"):
        surface(np.ones((2, 2), dtype=np.float32), geometry)
    with pytest.raises(InputError, match=r"suffix '.obj' does not fit a mesh; use one of \.stl"):
        write_mesh(tmp_path / "x.obj", tetrahedron)
    picture = Picture(np.zeros((4, 4), dtype=np.uint8), None)
    with pytest.raises(InputError, match="a picture has no surface; save the mask of a picture as"):
        save_surface(tmp_path / "x.stl", np.ones((4, 4)), picture)
    assert is_mesh("liver.STL")
    assert not is_mesh("liver.nii.gz")
    assert list(tmp_path.iterdir()) == []
