"""Random two-dimensional pictures with region maps: the training material of `nano`."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8

from segkit.data.phantom import shapes
from segkit.data.phantom.render import render
from segkit.data.phantom.scene import Layout, Scene


@dataclass(frozen=True, slots=True, eq=False)
class PhantomPicture:
    """A picture, its region numbers and the region around each region (0 = background)."""

    image: UInt8[np.ndarray, "size size 3"]
    labels: UInt8[np.ndarray, "size size"]
    parents: UInt8[np.ndarray, " regions"]
    kinds: tuple[str, ...]

    def targets(self) -> list[tuple[int, ...]]:
        """What a prompt can mean: each region alone, and each one with all that lies inside it."""
        inside: dict[int, list[int]] = {region: [region] for region in range(1, len(self.parents))}
        for region in range(1, len(self.parents)):
            parent = int(self.parents[region])
            while parent:
                inside[parent].append(region)
                parent = int(self.parents[parent])
        alone = [(region,) for region in inside]
        return alone + [tuple(members) for members in inside.values() if len(members) > 1]

    def mask(self, members: tuple[int, ...]) -> Bool[np.ndarray, "size size"]:
        """Pixels of the given regions."""
        chosen = np.zeros(len(self.parents), bool)
        chosen[list(members)] = True
        return chosen[self.labels]


def draw_layout(rng: np.random.Generator, size: int = 256) -> Layout:
    """Draw a random label map: a setting, some bodies with lesions, perhaps vessels or cells."""
    scene = Scene(rng, size)
    scale = size / 256
    grounds: list[int] = []
    if rng.random() < 0.25:
        grounds = shapes.layers(scene, int(rng.integers(2, 6)))
    theme = rng.random()
    for _ in range(int(rng.integers(1, 6)) if theme < 0.8 else int(rng.integers(0, 2))):
        radius = size * float(np.exp(rng.uniform(np.log(0.06), np.log(0.4))))
        y, x = rng.uniform(0.1, 0.9, 2) * size
        draw = shapes.blob if rng.random() < 0.15 else shapes.body
        number = draw(scene, (float(y), float(x)), radius)
        if number is not None:
            grounds.append(number)
    for ground in grounds:
        if rng.random() < 0.4:
            shapes.lesions(scene, ground, int(rng.integers(1, 4)))
    if rng.random() < 0.2:
        for _ in range(rng.integers(1, 4)):
            shapes.tube(scene, scale * float(np.exp(rng.uniform(np.log(2), np.log(20)))))
    if rng.random() < 0.12:
        shapes.tree(scene)
    if theme >= 0.8:
        shapes.cells(scene, int(rng.integers(8, 45)), scale * rng.uniform(4, 16))
    if rng.random() < 0.15:
        shapes.field_of_view(scene)
    return scene.finish()


def phantom_picture(seed: int | tuple[int, ...], size: int = 256) -> PhantomPicture:
    """Draw the picture that belongs to `seed`: the same seed gives the same picture.

    Args:
        seed: any non-negative integer, or several (for example run, step, position).
        size: side in pixels.

    Example:
        >>> phantom_picture(7, 64).image.shape
        (64, 64, 3)
    """
    rng = np.random.default_rng(seed)
    layout = draw_layout(rng, size)
    return PhantomPicture(render(rng, layout), layout.labels, layout.parents, layout.kinds)
