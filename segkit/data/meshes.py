"""Surfaces of masks as triangle meshes in patient millimetres, and their files."""

import base64
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float, Int, Shaped
from skimage.measure import marching_cubes

from segkit.data.atomic import atomic_file
from segkit.data.volume import Picture, Volume
from segkit.errors import InputError
from segkit.geometry import Geometry

SUFFIXES = (".stl", ".vtp", ".ply")
_SURE = 20.0  # logits beyond it are as good as infinite


@dataclass(frozen=True, slots=True)
class Mesh:
    """Triangles of a closed surface.

    `vertices_mm` are (x, y, z) in millimetres, right-anterior-superior, whatever the source;
    `faces` name three vertices each, counter-clockwise seen from outside.
    """

    vertices_mm: Float[np.ndarray, "vertices 3"]
    faces: Int[np.ndarray, "faces 3"]

    @property
    def volume_ml(self) -> float:
        """Enclosed volume, by the divergence theorem."""
        corners = self.vertices_mm[self.faces]
        signed = np.einsum("fi,fi->f", corners[:, 0], np.cross(corners[:, 1], corners[:, 2]))
        return float(signed.sum()) / 6 / 1000


def surface(logits: Float[np.ndarray, "d h w"], geometry: Geometry) -> Mesh:
    """Surface where logits on a grid are zero, with vertices between voxels (marching cubes).

    What lies outside the grid is outside the object, so the surface is closed. `geometry` is the
    frame of the grid of logits, which may be finer than that of the image.

    Raises:
        InputError: No logit is positive, or the shape is not that of the grid.
    """
    if logits.shape != geometry.shape:
        raise InputError(
            f"logits of shape {logits.shape} do not lie on the grid {geometry.shape}",
            fix="give logits on the grid of the geometry",
        )
    if not (logits > 0).any():
        raise InputError("the mask is empty: it has no surface", fix="check the prompts")
    field = np.pad(np.clip(logits, -_SURE, _SURE), 1, constant_values=-_SURE)
    kji, faces, _, _ = marching_cubes(field.astype(np.float32), level=0.0)
    vertices = geometry.to_world_mm(kji.astype(np.float64) - 1, "ras")
    mesh = Mesh(vertices, faces.astype(np.int32))
    # the handedness of the frame decides which way the triangles of the library face
    return mesh if mesh.volume_ml >= 0 else Mesh(vertices, mesh.faces[:, ::-1].copy())


def is_mesh(path: str | Path) -> bool:
    """Whether the suffix is that of a mesh."""
    return Path(path).suffix.lower() in SUFFIXES


def save_surface(
    path: str | Path, logits: Float[np.ndarray, "d h w"], like: Volume | Picture
) -> Path:
    """Write the surface of logits on the grid of a volume.

    Raises:
        InputError: `like` is a picture, the mask is empty, or the file cannot be written.
    """
    if isinstance(like, Picture):
        raise InputError(
            "a picture has no surface", fix="save the mask of a picture as .png", path=Path(path)
        )
    return write_mesh(path, surface(logits, like.geometry))


def write_mesh(path: str | Path, mesh: Mesh) -> Path:
    """Write a mesh, complete or not at all: .stl (binary), .ply (binary) or .vtp (VTK, XML).

    Coordinates are millimetres, right-anterior-superior; .stl and .ply say so in their header.

    Raises:
        InputError: The suffix is none of these, or the file cannot be written.
    """
    path = Path(path)
    writers: dict[str, Callable[[BinaryIO, Mesh], None]] = {
        ".stl": _write_stl,
        ".ply": _write_ply,
        ".vtp": _write_vtp,
    }
    if path.suffix.lower() not in writers:
        raise InputError(
            f"suffix {path.suffix!r} does not fit a mesh",
            fix=f"use one of {', '.join(SUFFIXES)}",
            path=path,
        )
    with atomic_file(path) as file:
        writers[path.suffix.lower()](file, mesh)
    return path


def _write_stl(file: BinaryIO, mesh: Mesh) -> None:
    corners = mesh.vertices_mm[mesh.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    rows = np.zeros(
        len(corners), dtype=[("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("spare", "<u2")]
    )
    rows["normal"] = normals / np.where(lengths > 0, lengths, 1)
    rows["corners"] = corners
    file.write(b"segkit surface, mm, space RAS".ljust(80, b" "))
    file.write(struct.pack("<I", len(rows)))
    file.write(rows.tobytes())


def _write_ply(file: BinaryIO, mesh: Mesh) -> None:
    header = (
        "ply\nformat binary_little_endian 1.0\ncomment segkit surface, mm, space RAS\n"
        f"element vertex {len(mesh.vertices_mm)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        f"element face {len(mesh.faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    rows = np.zeros(len(mesh.faces), dtype=[("count", "u1"), ("corners", "<i4", 3)])
    rows["count"], rows["corners"] = 3, mesh.faces
    file.write(header.encode("ascii"))
    file.write(mesh.vertices_mm.astype("<f4").tobytes())
    file.write(rows.tobytes())


def _write_vtp(file: BinaryIO, mesh: Mesh) -> None:
    points = _encoded("Float32", mesh.vertices_mm.astype("<f4"), ' NumberOfComponents="3"')
    corners = _encoded("Int32", mesh.faces.astype("<i4"), ' Name="connectivity"')
    ends = 3 * np.arange(1, len(mesh.faces) + 1, dtype="<i4")
    offsets = _encoded("Int32", ends, ' Name="offsets"')
    file.write(
        (
            '<?xml version="1.0"?>\n<VTKFile type="PolyData" version="1.0" '
            'byte_order="LittleEndian" header_type="UInt32">\n<PolyData>\n'
            f'<Piece NumberOfPoints="{len(mesh.vertices_mm)}" NumberOfPolys="{len(mesh.faces)}">\n'
            f"<Points>{points}</Points>\n<Polys>{corners}{offsets}</Polys>\n"
            "</Piece>\n</PolyData>\n</VTKFile>\n"
        ).encode("ascii")
    )


def _encoded(kind: str, values: Shaped[np.ndarray, "..."], more: str) -> str:
    raw = values.tobytes()
    text = base64.b64encode(struct.pack("<I", len(raw)) + raw).decode("ascii")
    return f'<DataArray type="{kind}"{more} format="binary">{text}</DataArray>'
