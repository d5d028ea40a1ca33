"""High-pass image: reference by Fourier transform, and dispatch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from segkit.kernels.dispatch import Impl, relative_error, sample, use_triton

if TYPE_CHECKING:  # kernels run on machines that have torch and triton only
    from segkit.typing import Image


def reference(image: Image, half: tuple[int, int]) -> Image:
    """Definition: magnitude of an image without its low frequencies; float32 or better.

    Drops the integer frequencies -half <= f < half of both axes (height, width), takes the real
    part of the inverse transform and its absolute value. The range is asymmetric as published.
    """
    # there is no half-precision Fourier transform on CPU
    exact = image if image.dtype == torch.float64 else image.float()
    spectrum = torch.fft.fft2(exact)
    rows, cols = (_is_low(n, h, image) for n, h in zip(image.shape[-2:], half, strict=True))
    spectrum = spectrum.masked_fill(rows[:, None] & cols, 0)
    return torch.fft.ifft2(spectrum).real.abs()


def by_real_transform(image: Image, half: tuple[int, int]) -> Image:
    """Compute `reference` with half of the spectrum.

    Taking the real part averages what is kept of a frequency and of its mirror image: a frequency
    that the asymmetric box drops alone is kept by half.
    """
    exact = image if image.dtype == torch.float64 else image.float()
    rows, cols = (_is_low(n, h, image) for n, h in zip(image.shape[-2:], half, strict=True))
    rows, cols = rows.to(exact.dtype), cols.to(exact.dtype)
    held = slice(exact.shape[-1] // 2 + 1)
    mirrored = (rows.flip(0).roll(1), cols.flip(0).roll(1))
    dropped = rows[:, None] * cols[held] + mirrored[0][:, None] * mirrored[1][held]
    spectrum = torch.fft.rfft2(exact) * (1 - dropped / 2)
    return torch.fft.irfft2(spectrum, s=exact.shape[-2:]).abs()


def high_pass(
    image: Image,
    half: tuple[int, int],
    *,
    dtype: torch.dtype | None = None,
    impl: Impl = "auto",
) -> Image:
    """Compute `reference` in `dtype` (float32 or better without one), fused where possible.

    The fused form is a projection along each axis, two matrix products; asked for a half-precision
    result it multiplies once in tf32.

    Raises:
        ValueError: `impl="triton"` where it cannot run, with the reason.
    """
    wanted = dtype or (torch.float64 if image.dtype == torch.float64 else torch.float32)
    if not use_triton(impl, image, check=self_check):
        pick = reference if impl == "reference" else by_real_transform
        return pick(image, half).to(wanted)
    from segkit.kernels.triton.highpass import high_pass as fused

    maps = fused(image.flatten(0, -3), *half, True, wanted)
    return maps.view(image.shape)


def _is_low(size: int, half: int, like: Image) -> torch.Tensor:
    index = torch.arange(size, device=like.device)
    # fftfreq order without rounding: 0, 1, ..., -2, -1
    frequency = torch.where(index < (size + 1) // 2, index, index - size)
    return (frequency >= -half) & (frequency < half)


def self_check(device: torch.device, dtype: torch.dtype) -> float:
    """Relative error of the fused form on a small input."""
    inputs = sample(((1, 2, 18, 23),), device, dtype)
    got = high_pass(inputs[0], (4, 3), impl="triton")
    return relative_error(got, reference(inputs[0], (4, 3)), inputs)
