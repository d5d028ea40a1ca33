"""3DSAM-adapter: its spatial adapter."""

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from segkit.adapters.spatial import SpatialBottleneck
from tools.parity.harness import Case, copied, images, import_file, randomise

DIM, HIDDEN = 32, 16


def cases(root: Path) -> Iterator[Case]:
    """The adapter with its residual, on a volume in array order."""
    path = root / "3DSAM-adapter" / "modeling" / "image_encoder.py"
    theirs = import_file(path, "sam3d_adapter_encoder").Adapter(DIM, HIDDEN)
    ours = SpatialBottleneck(DIM, HIDDEN, compat="authors")
    randomise(theirs)
    pairs = copied(list(theirs.parameters()), list(ours.parameters()))
    depth = 5

    def run(volume: Tensor) -> Tensor:
        slices = volume.flatten(0, 1)
        return ours(slices, depth).unflatten(0, (-1, depth))

    yield Case("spatial adapter", theirs, run, [images(2, depth, 6, 7, DIM)], pairs)
