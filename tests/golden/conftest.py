"""Closed-form weights and inputs behind the golden numbers.

The authors' modules were filled by the same rule and run once; the numbers in the tests are theirs.
Parameter tensor j (in a stated order), element k (row-major): 0.1 * sin(0.37 k + j). Inputs:
sin(0.11 k + 0.5). All in float64.
"""

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn


def _fill(modules: Iterable[nn.Module]) -> None:
    with torch.no_grad():
        for j, parameter in enumerate(p for m in modules for p in (m.weight, m.bias)):
            k = torch.arange(parameter.numel(), dtype=torch.float64)
            parameter.copy_((0.1 * torch.sin(0.37 * k + j)).view(parameter.shape))


def _wave(*shape: int) -> Tensor:
    k = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return torch.sin(0.11 * k + 0.5).view(shape)


def _summary(tensor: Tensor) -> list[float]:
    flat = tensor.detach().double().flatten()
    spread = flat.std(correction=0)
    return [float(v) for v in (flat.mean(), spread, flat[0], flat[len(flat) // 2], flat[-1])]


@pytest.fixture
def fill() -> Callable[[Iterable[nn.Module]], None]:
    """Overwrite weight and bias of layers in the order given."""
    return _fill


@pytest.fixture
def wave() -> Callable[..., Tensor]:
    """Input of a shape."""
    return _wave


@pytest.fixture
def summary() -> Callable[[Tensor], list[float]]:
    """Mean, population standard deviation, first, middle and last element."""
    return _summary
