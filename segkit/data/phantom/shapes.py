"""Shapes that a scene is made of: bodies, rings, lesions, tubes, trees, layers, cells."""

import math

import numpy as np
from jaxtyping import Bool, Float32
from PIL import Image, ImageDraw

from segkit.data.phantom.fields import smooth_curve, smooth_field
from segkit.data.phantom.scene import Scene

Window = tuple[slice, slice]
Plane = Float32[np.ndarray, "h w"]


def radial(
    scene: Scene, centre: tuple[float, float], radii: tuple[float, float], roughness: float
) -> tuple[Window, Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]:
    """Window around a closed curve, the relative radius in it (curve = 1) and a relief slope.

    The curve is an ellipse or a rounded box, turned, with waves of `roughness` along its outline.
    """
    rng, size = scene.rng, scene.size
    reach = max(radii) * (1.1 + 2 * roughness) + 2.5 * scene.bend + 1
    window = (
        slice(max(int(centre[0] - reach), 0), min(int(centre[0] + reach) + 1, size)),
        slice(max(int(centre[1] - reach), 0), min(int(centre[1] + reach) + 1, size)),
    )
    angle = rng.uniform(0, np.pi)
    down, right = scene.rows[window] - centre[0], scene.cols[window] - centre[1]
    cos, sin = math.cos(angle), math.sin(angle)
    u = (cos / radii[0]) * down + (sin / radii[0]) * right
    v = (cos / radii[1]) * right - (sin / radii[1]) * down
    distance = np.sqrt(u * u + v * v)
    if rng.random() < 0.2:
        boxed = np.maximum(np.abs(u), np.abs(v))
        distance = distance + rng.uniform(0.3, 0.9) * (boxed - distance)
    if roughness > 0:
        distance -= _waves(rng, u, v, distance, roughness)
    return window, distance, u


def _waves(
    rng: np.random.Generator, u: Plane, v: Plane, distance: Plane, roughness: float
) -> Plane:
    """Sum of cosine waves over the turn angle, by powers of the unit complex number."""
    unit = (v + 1j * u) / np.maximum(distance, 0.2)
    power = unit
    total = np.zeros_like(distance)
    for wave in range(2, 7):
        power = power * unit
        turn = rng.uniform(0, 2 * math.pi)
        height = roughness * rng.normal() / (wave - 0.5)
        total += (height * math.cos(turn)) * power.real + (height * math.sin(turn)) * power.imag
    return total


def body(scene: Scene, centre: tuple[float, float], radius: float, parent: int = 0) -> int | None:
    """A closed body, perhaps outlined, perhaps with relief, perhaps a hollow ring."""
    rng = scene.rng
    stretch = rng.uniform(0.45, 1)
    window, distance, slope = radial(
        scene, centre, (radius, radius * stretch), float(rng.choice([0, 0.04, 0.1, 0.2]))
    )
    mask = distance < 1
    if parent:
        mask &= scene.labels[window] == parent
    style = rng.random()
    number = scene.add(mask, "outlined" if style < 0.12 else "body", parent, window)
    if number is None:
        return None
    if rng.random() < 0.5:
        relief = rng.normal(0, 0.5) * slope - rng.normal(0.3, 0.5) * distance**2
        scene.shade[window][mask] = relief[mask]
    if style < 0.3:
        _outline(scene, window, distance, radius)
    elif style < 0.45 and radius > 0.06 * scene.size:
        scene.add(mask & (distance < rng.uniform(0.45, 0.85)), "cavity", number, window)
    return number


def _outline(
    scene: Scene, window: Window, distance: Float32[np.ndarray, "h w"], radius: float
) -> None:
    """Draw the border with gaps, as a skull in ultrasound or a capsule shows."""
    width = scene.rng.uniform(0.8, 4.0) / radius * scene.size / 256
    gaps = smooth_field(scene.rng, scene.size, 5)[window] * scene.rng.uniform(0, 1) + 0.6
    line = np.exp(-(((distance - 1) / width) ** 2)) * np.clip(gaps, 0, 1)
    np.maximum(scene.rim[window], line, out=scene.rim[window])


def blob(scene: Scene, centre: tuple[float, float], radius: float) -> int | None:
    """An irregular mass: a noise field thresholded around a centre."""
    window, distance, _ = radial(scene, centre, (radius, radius), 0)
    field = smooth_field(scene.rng, scene.size, int(scene.rng.integers(4, 16)))[window]
    return scene.add(distance + 0.3 * field < 1, "body", 0, window)


def lesions(scene: Scene, parent: int, count: int) -> None:
    """Smaller bodies at random places inside region `parent`."""
    rng = scene.rng
    where = np.flatnonzero(scene.labels.ravel() == parent)
    if where.size < 60:
        return
    scale = np.sqrt(where.size)
    for place in rng.choice(where, count):
        centre = divmod(float(place), scene.size)
        body(scene, centre, scale * rng.uniform(0.08, 0.35), parent)


def _stroke(
    scene: Scene, points: list[tuple[float, float]], widths: list[float]
) -> Bool[np.ndarray, "s s"]:
    picture = Image.new("L", (scene.size, scene.size))
    draw = ImageDraw.Draw(picture)
    for (y, x), (next_y, next_x), width in zip(points, points[1:], widths, strict=False):
        draw.line((x, y, next_x, next_y), fill=1, width=max(round(width), 1))
        half = width / 2 - 0.5
        if half >= 1:
            draw.ellipse((next_x - half, next_y - half, next_x + half, next_y + half), fill=1)
    return np.asarray(picture, dtype=bool)


def tube(scene: Scene, width: float, parent: int = 0) -> int | None:
    """A winding band of slowly varying width."""
    rng, size = scene.rng, scene.size
    y, x = rng.uniform(0.1, 0.9, 2) * size
    heading, turn = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.5)
    steps = int(rng.integers(8, 40))
    bends = np.cumsum(turn * smooth_curve(rng, steps, max(steps // 6, 2)))
    widths = width * (1 + 0.3 * smooth_curve(rng, steps, 3))
    points = []
    for bend in bends:
        points.append((float(y), float(x)))
        y += size * 0.025 * np.sin(heading + bend)
        x += size * 0.025 * np.cos(heading + bend)
    mask = _stroke(scene, points, widths.tolist())
    if parent:
        mask &= scene.labels == parent
    return scene.add(mask, "tube", parent)


def tree(scene: Scene) -> int | None:
    """A branching tree that thins out, as vessels do."""
    rng, size = scene.rng, scene.size
    root = rng.uniform(0.05, 0.95, 2) * size
    to_centre = np.arctan2(size / 2 - root[0], size / 2 - root[1])
    width = rng.uniform(2, 9) * size / 256
    stack = [
        (root[0], root[1], to_centre + rng.normal(0, 0.4), width) for _ in range(rng.integers(1, 4))
    ]
    mask = np.zeros((size, size), bool)
    split, bend = rng.uniform(0.06, 0.2), rng.uniform(0.08, 0.3)
    for _ in range(60):
        if not stack:
            break
        y, x, heading, width = stack.pop()
        points, widths = [(y, x)], []
        while 0 <= y < size and 0 <= x < size and width >= 0.8:
            heading += rng.normal(0, bend)
            y, x = y + 0.03 * size * np.sin(heading), x + 0.03 * size * np.cos(heading)
            points.append((y, x))
            widths.append(width)
            width *= 0.97
            if rng.random() < split and len(stack) < 30:
                stack.append(
                    (y, x, heading + rng.choice([-1, 1]) * rng.uniform(0.4, 1.2), 0.7 * width)
                )
        mask |= _stroke(scene, points, widths)
    return scene.add(mask, "tree", 0)


def layers(scene: Scene, count: int) -> list[int]:
    """Stacked tissue layers with wavy borders; returns their numbers."""
    rng, size = scene.rng, scene.size
    angle = rng.uniform(0, np.pi)
    height = math.cos(angle) * (scene.rows - size / 2) + math.sin(angle) * (scene.cols - size / 2)
    height = height + rng.uniform(0, 0.08) * size * smooth_field(rng, size, int(rng.integers(1, 5)))
    borders = np.sort(rng.uniform(-0.5, 0.5, count)) * size
    level = np.searchsorted(borders, height.ravel()).reshape(size, size)
    numbers = [scene.add(level == index, "layer") for index in range(1, count + 1)]
    return [number for number in numbers if number is not None]


def cells(scene: Scene, count: int, radius: float) -> None:
    """Many small bodies of one kind, scattered or clustered, barely overlapping."""
    rng, size = scene.rng, scene.size
    clusters = rng.uniform(0.1, 0.9, (int(rng.integers(1, 5)), 2)) * size
    spread = rng.uniform(0.1, 0.3) * size
    clustered = rng.random() < 0.5
    taken = np.zeros((size, size), bool)
    for _ in range(count):
        base = clusters[rng.integers(len(clusters))]
        centre = rng.normal(base, spread) if clustered else rng.uniform(0, size, 2)
        if centre.min() < 0 or centre.max() >= size:
            continue
        r = radius * rng.uniform(0.7, 1.3)
        window, distance, slope = radial(
            scene, (float(centre[0]), float(centre[1])), (r, r * rng.uniform(0.55, 1)), 0.05
        )
        mask = (distance < 1) & ~taken[window]
        if mask.sum() < 2 * r * r or scene.add(mask, "cell", 0, window) is None:
            continue
        taken[window] |= distance < 1.1
        scene.shade[window][mask] = (0.3 * slope - 0.4 * distance)[mask]


def field_of_view(scene: Scene) -> None:
    """Restrict the view to a disc or a fan."""
    rng, size = scene.rng, scene.size
    rows, cols = np.mgrid[:size, :size].astype(np.float32) / size
    if rng.random() < 0.5:
        scene.view = (rows - 0.5) ** 2 + (cols - 0.5) ** 2 < rng.uniform(0.42, 0.6) ** 2
    else:
        apex = -rng.uniform(0.02, 0.4)
        angle = np.abs(np.arctan2(cols - rng.uniform(0.4, 0.6), rows - apex))
        reach = np.hypot(rows - apex, cols - 0.5)
        scene.view = (angle < rng.uniform(0.45, 0.8)) & (reach < 1 - apex) & (reach > -apex)
