"""Methods that turn clicks or a box into a mask: `nano` and the trivial baselines.

A click method is called as `click(points, labels)` with XY pixels, a box method as `box(x0, y0,
x1, y1)` with inclusive corners; each is made for one image. Intensity methods work on a copy of
at most `WORK` pixels a side.
"""

import warnings
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32, UInt8
from PIL import Image
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.segmentation import flood, random_walker

from segkit.backbones.sam_modules import SamModules
from segkit.predictors.image import ImagePredictor
from tools.nano.network import decode, encode

Mask = Bool[np.ndarray, "h w"]
Points = Float32[np.ndarray, "points 2"]
Box = tuple[int, int, int, int]
WORK = 128


class Nano:
    """The model on one image, by SAM's conventions; feeds its own last mask back."""

    def __init__(self, modules: SamModules, image: UInt8[np.ndarray, "h w 3"]) -> None:
        self.modules, self.image = modules, image
        self.previous: Any = None
        self.facts: dict[str, list[Mask]] = {}
        size = modules.sizes.image_size
        height, width = self.image.shape[:2]
        self.scale = size / max(height, width)
        self.inner = (int(height * self.scale + 0.5), int(width * self.scale + 0.5))
        small = Image.fromarray(self.image).resize(self.inner[::-1], Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float()
        # zero after normalisation: the padding is filled with the mean colour
        canvas = self.modules.pixel_mean[None].expand(1, 3, size, size).clone()
        canvas[:, :, : self.inner[0], : self.inner[1]] = pixels
        with torch.no_grad():
            self.features = encode(self.modules, canvas)

    def _run(self, points: Points, labels: list[int], outer: float = 0.0) -> tuple[Any, Any]:
        """Answer marks; box corners keep their `outer` edges, half a pixel off the centre."""
        side = np.array([[-outer], [outer]] if outer else 0, np.float32)
        points = (np.asarray(points, np.float32) + 0.5 + side) * self.scale - 0.5 - side
        scaled = torch.from_numpy(points.astype(np.float32))
        given = torch.ones(1) if self.previous is not None else None
        with torch.no_grad():
            return decode(
                self.modules, self.features, scaled[None], torch.tensor([labels]),
                self.previous, given,
            )  # fmt: skip

    def _full(self, logits: Any) -> Mask:
        size = self.modules.sizes.image_size
        large = F.interpolate(logits[None, None], (size, size), mode="bilinear")
        large = large[..., : self.inner[0], : self.inner[1]]
        large = F.interpolate(large, self.image.shape[:2], mode="bilinear")
        return (large[0, 0] > 0).numpy()

    def click(self, points: Points, labels: list[int]) -> Mask:
        """One click: the best of the masks offered by predicted IoU; more: the single mask."""
        padded = np.concatenate([points, np.zeros((1, 2), np.float32)])
        logits, rank = self._run(padded, [*labels, -1])
        offered = [0]
        if len(labels) == 1:
            first = 0 if self.modules.sizes.draws_prompts else 1
            offered = (rank[0, first:].topk(3).indices + first).tolist()
            self.facts["oracle"] = [self._full(logits[0, index]) for index in offered]
            self.facts["single"] = [self._full(logits[0, 0])]
        chosen = offered[0]
        self.previous = logits[:, chosen : chosen + 1]
        return self._full(logits[0, chosen])

    def box(self, x0: int, y0: int, x1: int, y1: int) -> Mask:
        """The single mask of a box prompt."""
        logits, _ = self._run(np.array([[x0, y0], [x1, y1]], np.float32), [2, 3], outer=0.5)
        return self._full(logits[0, 0])


class Zoomed:
    """The model on one image through windows around the object, as `open(image, zoom=2)` does."""

    def __init__(self, predictor: ImagePredictor, image: UInt8[np.ndarray, "h w 3"]) -> None:
        self.session = predictor.open(image, zoom=2.0)

    def click(self, points: Points, labels: list[int]) -> Mask:
        """Answer the last click; the session remembers those before it."""
        col, row = points[-1].tolist()
        return self.session.add_points([(row, col)], labels[-1:]).mask()

    def box(self, x0: int, y0: int, x1: int, y1: int) -> Mask:
        """Answer a box alone."""
        return self.session.add_box(((y0, x0), (y1 + 1, x1 + 1))).mask()


def ellipse(shape: tuple[int, int], box: Box) -> Mask:
    """Ellipse inscribed in the box; looks at no pixel."""
    x0, y0, x1, y1 = box
    rows, cols = np.ogrid[: shape[0], : shape[1]]
    down = (rows - (y0 + y1) / 2) / ((y1 - y0 + 1) / 2)
    right = (cols - (x0 + x1) / 2) / ((x1 - x0 + 1) / 2)
    return down**2 + right**2 <= 1


def otsu_box(grey: Float32[np.ndarray, "h w"], box: Box) -> Mask:
    """Otsu's threshold inside the box; the side that holds more of the inscribed ellipse."""
    x0, y0, x1, y1 = box
    window = (slice(y0, y1 + 1), slice(x0, x1 + 1))
    inside, mask = grey[window], np.zeros(grey.shape, bool)
    if np.ptp(inside) == 0:
        return ellipse(grey.shape, box)
    bright = inside > threshold_otsu(inside)
    core = ellipse(grey.shape, box)[window]
    mask[window] = bright if bright[core].mean() >= bright.mean() else ~bright
    return mask


def _middle(box: Box) -> tuple[slice, slice]:
    """Middle third of the box on both axes."""
    x0, y0, x1, y1 = box
    row, col, tall, wide = (y0 + y1) // 2, (x0 + x1) // 2, (y1 - y0) // 6, (x1 - x0) // 6
    return slice(row - tall, row + tall + 1), slice(col - wide, col + wide + 1)


def grabcut_box(image: UInt8[np.ndarray, "h w 3"], box: Box) -> Mask:
    """GrabCut (Rother et al., 2004), three iterations; the middle of the box is object.

    Without that seed it collapses to empty masks on small or low-contrast pictures.
    """
    cv2.setRNGSeed(0)
    x0, y0, x1, y1 = box
    marks = np.full(image.shape[:2], cv2.GC_BGD, np.uint8)
    marks[y0 : y1 + 1, x0 : x1 + 1] = cv2.GC_PR_FGD
    marks[_middle(box)] = cv2.GC_FGD
    if (marks == cv2.GC_BGD).sum() < 10:
        return marks == cv2.GC_PR_FGD
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(image[..., ::-1].copy(), marks, None, *models, 3, cv2.GC_INIT_WITH_MASK)
    return (marks == cv2.GC_FGD) | (marks == cv2.GC_PR_FGD)


def walk(grey: Float32[np.ndarray, "h w"], seeds: np.ndarray) -> Mask:
    """Random walker (Grady, 2006) from seeds 1 (object) and 2 (background)."""
    if not (seeds == 1).any() or not (seeds == 2).any():
        return seeds == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return random_walker(grey, seeds, beta=250, mode="cg_j", tol=1e-3) == 1


def walker_click(grey: Float32[np.ndarray, "h w"], points: Points, labels: list[int]) -> Mask:
    """Random walker from discs at the clicks; the image border is background."""
    seeds = np.zeros(grey.shape, np.int32)
    seeds[[0, -1]] = seeds[:, [0, -1]] = 2
    for (x, y), label in zip(points.round().astype(int), labels, strict=True):
        seeds[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] = 1 if label else 2
    return walk(grey, seeds)


def walker_box(grey: Float32[np.ndarray, "h w"], box: Box) -> Mask:
    """Random walker; the outside is background, the middle of the box is object."""
    x0, y0, x1, y1 = box
    seeds = np.full(grey.shape, 2, np.int32)
    seeds[y0 : y1 + 1, x0 : x1 + 1] = 0
    seeds[_middle(box)] = 1
    return walk(grey, seeds)


def grow(grey: Float32[np.ndarray, "h w"], points: Points, labels: list[int]) -> Mask:
    """Region growing from the clicks at the widest of four tolerances that spares the negatives."""
    smooth = ndimage.gaussian_filter(grey, 1)
    places = [tuple(place) for place in points.round().astype(int)[:, ::-1].tolist()]
    mask = np.zeros(grey.shape, bool)
    avoid = [place for place, label in zip(places, labels, strict=True) if not label]
    for place, label in zip(places, labels, strict=True):
        for tolerance in (0.16, 0.08, 0.04, 0.02) if label else ():
            region = flood(smooth, place, tolerance=tolerance)
            if not any(region[other] for other in avoid):
                mask |= region
                break
    return ndimage.binary_fill_holes(mask)
