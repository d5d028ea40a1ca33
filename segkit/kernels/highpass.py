"""High-pass image by Fourier transform."""

import torch

from segkit.typing import Image


def high_pass(image: Image, half: tuple[int, int]) -> Image:
    """Magnitude of an image without its low frequencies; float32 or better.

    Drops the integer frequencies -half <= f < half of both axes (height, width), takes the real
    part of the inverse transform and its absolute value. The range is asymmetric as published.
    """
    # there is no half-precision Fourier transform on CPU
    exact = image if image.dtype == torch.float64 else image.float()
    spectrum = torch.fft.fft2(exact)
    rows, cols = (_is_low(n, h, image) for n, h in zip(image.shape[-2:], half, strict=True))
    spectrum = spectrum.masked_fill(rows[:, None] & cols, 0)
    return torch.fft.ifft2(spectrum).real.abs()


def _is_low(size: int, half: int, like: Image) -> torch.Tensor:
    index = torch.arange(size, device=like.device)
    # fftfreq order without rounding: 0, 1, ..., -2, -1
    frequency = torch.where(index < (size + 1) // 2, index, index - size)
    return (frequency >= -half) & (frequency < half)
