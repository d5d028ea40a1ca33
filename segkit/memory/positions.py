"""Position codes of the memory: sines of the grid and of time, and rotations of the grid.

Tables depend on sizes only and are kept for the few sizes a process sees.
"""

import math
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

_TEMPERATURE = 10000.0


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def grid_sines(dim: int, rows: int, cols: int, device: torch.device) -> Float[Tensor, "cells dim"]:
    """Sine code of the cells of a grid, row by row; the first half of `dim` codes the row.

    Source: "End-to-End Object Detection with Transformers" (Carion et al., 2020), appendix A.4,
    with coordinates normalised to 2 pi.
    """
    half = dim // 2
    channel = torch.arange(half, device=device)
    rate = _TEMPERATURE ** (2 * torch.div(channel, 2, rounding_mode="floor") / half)

    def code(count: int) -> Float[Tensor, "count half"]:
        place = torch.arange(1, count + 1, device=device) / (count + 1e-6) * (2 * math.pi)
        angle = place[:, None] / rate
        return torch.where(channel % 2 == 0, angle.sin(), angle.cos())

    down = code(rows)[:, None].expand(rows, cols, half)
    across = code(cols)[None].expand(rows, cols, half)
    return torch.cat([down, across], dim=-1).flatten(0, 1)


def time_sines(ages: Float[Tensor, "*batch"], dim: int) -> Float[Tensor, "*batch dim"]:
    """Sine code of ages (1 is the oldest that is remembered)."""
    half = dim // 2
    channel = torch.arange(half, device=ages.device)
    rate = _TEMPERATURE ** (2 * torch.div(channel, 2, rounding_mode="floor") / half)
    angle = ages[..., None] / rate
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def rotations(
    dim: int, rows: int, cols: int, device: torch.device
) -> tuple[Float[Tensor, "cells half"], Float[Tensor, "cells half"]]:
    """Cosine and sine of the angle by which each pair of channels turns at each cell.

    The first half of the pairs turns with the column, the other with the row. Source: "Rotary
    Position Embedding for Vision Transformer" (Heo et al., 2024), axial form.
    """
    rate = _TEMPERATURE ** (-torch.arange(0, dim, 4, device=device)[: dim // 4].float() / dim)
    cell = torch.arange(rows * cols, device=device)
    column, row = (cell % cols).float(), torch.div(cell, cols, rounding_mode="floor").float()
    angle = torch.cat([torch.outer(column, rate), torch.outer(row, rate)], dim=-1)
    return angle.cos(), angle.sin()


def rotate(
    x: Float[Tensor, "*batch cells dim"],
    turns: tuple[Float[Tensor, "cells half"], Float[Tensor, "cells half"]],
) -> Float[Tensor, "*batch cells dim"]:
    """Turn neighbouring channels (0, 1), (2, 3), ... as a pair, in real arithmetic."""
    cos, sin = turns
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)
