"""Random changes of training slices: MONAI transforms behind one call without dictionaries."""

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import segkit.torchvision_compat  # noqa: F401

# isort: split
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from monai.config import KeysCollection
from monai.data import get_track_meta, set_track_meta
from monai.transforms import (
    Compose,
    MapTransform,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianSmoothd,
    Randomizable,
    RandomizableTransform,
    RandScaleIntensityFixedMeand,
    RandShiftIntensityd,
)
from torch import Tensor

from segkit.data.preprocess import PAD_COLOUR
from segkit.errors import InputError

_IMAGE, _MASK = "image", "mask"
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True, slots=True)
class AugmentSpec:
    """Strength of the random changes; values fit images in [0, 1].

    `flip_rows` and `flip_columns` are off: in scans a mirrored left kidney is no right kidney. Turn
    both on for images without a fixed side up (endoscopy, retina, microscopy). `rotate_degrees`,
    `scale` (share of the size) and `shift` (share of the side) are drawn from plus/minus the value,
    with probability `affine_probability` all at once. Each change of intensity happens with
    `intensity_probability`: `gamma` is a range of exponents, `contrast` and `brightness` are
    plus/minus, `noise_std` and `blur_sigma_px` upper limits, `bias` the largest exponent of a
    smooth field (e ** bias). `colour` varies saturation and the balance of the channels of colour
    images. A value of 0 turns a change off.

    With `variants` each slice recurs in so many random forms instead of a new one in each epoch:
    what frozen blocks compute of them can then be kept.
    """

    flip_rows: bool = False
    flip_columns: bool = False
    rotate_degrees: float = 15.0
    scale: float = 0.15
    shift: float = 0.05
    affine_probability: float = 0.5
    intensity_probability: float = 0.15
    gamma: tuple[float, float] = (0.7, 1.5)
    contrast: float = 0.25
    brightness: float = 0.1
    noise_std: float = 0.05
    blur_sigma_px: float = 1.0
    bias: float = 0.3
    colour: float = 0.2
    variants: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.gamma[0] <= self.gamma[1]:
            raise InputError(f"gamma must be (low, high) with 0 < low <= high, got {self.gamma}")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "gamma" and not 0 <= value < np.inf:
                raise InputError(f"{field.name} must be >= 0, got {value}")
        for name in ("affine_probability", "intensity_probability", "scale", "shift", "colour"):
            if getattr(self, name) > 1:
                raise InputError(f"{name} must be between 0 and 1, got {getattr(self, name)}")


class RandColourd(RandomizableTransform, MapTransform):
    """Vary saturation and the gain of each channel of `[3 h w]` images in [0, 1]."""

    def __init__(self, keys: KeysCollection, strength: float, prob: float) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.strength = strength

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Change all keys alike."""
        out = dict(data)
        self.randomize(None)
        if not self._do_transform:
            return out
        low, high = 1 - self.strength, 1 + self.strength
        saturation, *gains = self.R.uniform(low, high, size=4).tolist()
        for key in self.key_iterator(out):
            image = out[key]
            grey = (image * image.new_tensor(_LUMA)[:, None, None]).sum(0, keepdim=True)
            gain = image.new_tensor(gains)[:, None, None]
            out[key] = (grey + (image - grey) * saturation) * gain
        return out


class RandSmoothBiasd(RandomizableTransform, MapTransform):
    """Multiply `[c h w]` images by a smooth field between e ** -strength and e ** strength.

    A coarse lattice of exponents is enlarged; a polynomial field as in MONAI's RandBiasField costs
    several times as much.
    """

    _cells = 4

    def __init__(self, keys: KeysCollection, strength: float, prob: float) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.strength = strength

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Change all keys alike."""
        out = dict(data)
        self.randomize(None)
        if not self._do_transform:
            return out
        knots = self.R.uniform(-self.strength, self.strength, size=(1, 1, self._cells, self._cells))
        for key in self.key_iterator(out):
            image = out[key]
            exponent = F.interpolate(
                image.new_tensor(knots), image.shape[-2:], mode="bilinear", align_corners=True
            )
            out[key] = image * exponent[0].exp()
        return out


class RandNoised(RandomizableTransform, MapTransform):
    """Add Gaussian noise whose deviation is drawn up to `std`.

    MONAI's RandGaussianNoise draws in float64, which takes several times as long.
    """

    def __init__(self, keys: KeysCollection, std: float, prob: float) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.std = std

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Change each key by noise of its own."""
        out = dict(data)
        self.randomize(None)
        if not self._do_transform:
            return out
        std = self.R.uniform(0, self.std)
        generator = torch.Generator().manual_seed(int(self.R.randint(2**31 - 1)))
        for key in self.key_iterator(out):
            noise = torch.empty_like(out[key]).normal_(std=std, generator=generator)
            out[key] = out[key] + noise
        return out


def pad_to_model(
    image: Float[Tensor, "c h w"], mask: Int[Tensor, "h w"], size: int
) -> tuple[Float[Tensor, "3 size size"], Int[Tensor, "size size"]]:
    """Three channels on a square, padded at the bottom and on the right as `SliceView` does."""
    height, width = mask.shape
    square = image.new_tensor(PAD_COLOUR)[:, None, None].repeat(1, size, size)
    square[:, :height, :width] = image
    target = mask.new_zeros(size, size)
    target[:height, :width] = mask
    return square, target


class Augmentation:
    """Random change of one slice, decided by a seed alone; the result has the model's size.

    Intensities change before the slice is padded, the geometry after it, and what comes in from
    outside has the colour of the padding: the model meets the same padding as in prediction. `size`
    is the side of the model input in pixels.

    Example:
        >>> import torch
        >>> change = Augmentation(AugmentSpec(flip_columns=True), size=32)
        >>> image, mask = torch.rand(1, 32, 24), torch.ones(32, 24, dtype=torch.long)
        >>> one, _ = change(image, mask, seed=7)
        >>> two, _ = change(image, mask, seed=7)
        >>> one.shape, torch.equal(one, two)
        (torch.Size([3, 32, 32]), True)
    """

    def __init__(self, spec: AugmentSpec, size: int, *, is_colour: bool = False) -> None:
        self.spec, self.size = spec, size
        self._intensity = Compose(_intensity(spec, is_colour))
        self._geometry = Compose(_geometry(spec, size))
        self._pad_colour = torch.tensor(PAD_COLOUR)[:, None, None]
        # one stream for all: seeding it once is far cheaper than seeding each transform
        self._random = np.random.RandomState(0)
        for transform in (*randomizables(self._intensity), *randomizables(self._geometry)):
            transform.R = self._random

    def __call__(
        self, image: Float[Tensor, "c h w"], mask: Int[Tensor, "h w"], *, seed: int
    ) -> tuple[Float[Tensor, "3 size size"], Int[Tensor, "size size"]]:
        """Change an image in [0, 1] of one or three channels, and its mask."""
        self._random.seed(seed)
        with plain_tensors():
            changed = self._intensity({_IMAGE: image})[_IMAGE].clamp(0, 1)
            square, target = pad_to_model(changed, mask, self.size)
            # around 0 the padding is 0, which is what the transforms fill in from outside
            data = {_IMAGE: square - self._pad_colour, _MASK: target[None].float()}
            data = self._geometry(data)
        return data[_IMAGE] + self._pad_colour, data[_MASK][0].to(mask.dtype)


class _EdgeSmoothd(RandGaussianSmoothd):
    """Gaussian blur that continues the edge; upstream lets black in from outside."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        margin = int(np.ceil(4 * self.rand_smooth.sigma_x[1])) + 1
        around = (margin,) * 4
        wide = {key: F.pad(data[key][None], around, mode="replicate")[0] for key in self.keys}
        smooth = super().__call__(wide)
        inner = slice(margin, -margin)
        return {**data, **{key: smooth[key][:, inner, inner] for key in self.keys}}


def _intensity(spec: AugmentSpec, is_colour: bool) -> list[Any]:
    prob = spec.intensity_probability
    sigma = (0.0, spec.blur_sigma_px)
    steps: list[Any] = []
    if is_colour and spec.colour > 0:
        steps.append(RandColourd(_IMAGE, spec.colour, prob))
    if spec.gamma != (1, 1):
        steps.append(RandAdjustContrastd(_IMAGE, prob=prob, gamma=spec.gamma))
    if spec.contrast > 0:
        steps.append(RandScaleIntensityFixedMeand(_IMAGE, prob=prob, factors=spec.contrast))
    if spec.brightness > 0:
        steps.append(RandShiftIntensityd(_IMAGE, prob=prob, offsets=spec.brightness))
    if spec.bias > 0:
        steps.append(RandSmoothBiasd(_IMAGE, spec.bias, prob))
    if spec.blur_sigma_px > 0:
        steps.append(_EdgeSmoothd(_IMAGE, prob=prob, sigma_x=sigma, sigma_y=sigma))
    if spec.noise_std > 0:
        steps.append(RandNoised(_IMAGE, spec.noise_std, prob))
    return steps


def _geometry(spec: AugmentSpec, size: int) -> list[Any]:
    both = [_IMAGE, _MASK]
    flips = [(spec.flip_rows, 0), (spec.flip_columns, 1)]
    steps: list[Any] = [
        RandFlipd(both, prob=0.5, spatial_axis=axis) for is_on, axis in flips if is_on
    ]
    if spec.affine_probability > 0 and max(spec.rotate_degrees, spec.scale, spec.shift) > 0:
        steps.append(
            RandAffined(
                both,
                prob=spec.affine_probability,
                rotate_range=float(np.deg2rad(spec.rotate_degrees)),
                scale_range=(spec.scale, spec.scale),
                translate_range=(spec.shift * size, spec.shift * size),
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
                spatial_size=(size, size),
                cache_grid=True,
            )
        )
    return steps


def randomizables(node: object) -> Iterator[Randomizable]:
    """A transform and all random transforms inside it."""
    if isinstance(node, Randomizable):
        yield node
    inner = list(vars(node).values()) if isinstance(node, Randomizable) else []
    for value in inner:
        for part in value if isinstance(value, list | tuple) else [value]:
            if isinstance(part, Randomizable):
                yield from randomizables(part)


@contextmanager
def plain_tensors() -> Iterator[None]:
    """Without MONAI's bookkeeping of metadata, which would double the time per sample."""
    before = get_track_meta()
    set_track_meta(False)
    try:
        yield
    finally:
        set_track_meta(before)
