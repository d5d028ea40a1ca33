"""Tiles of scores against the definition: pictures, windows and volumes."""

import pytest
import torch

from segkit.kernels import cpu_attention
from segkit.kernels.attention import grid_attention, reference


@pytest.mark.parametrize("shape", [(5, 7), (8, 8), (3, 4, 5)])
@pytest.mark.parametrize("tile", [2**20, 700, 40, 1])
def test_equals_the_definition(
    shape: tuple[int, ...], tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_attention, "_TILE", tile)
    generator = torch.Generator().manual_seed(0)

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    tokens = torch.Size(shape).numel()
    q, k, v = (draw(3, 2, tokens, 8) for _ in range(3))
    tables = [draw(side, side, 8) for side in shape]
    found = grid_attention(q, k, v, tables)
    torch.testing.assert_close(found, reference(q, k, v, tables), rtol=1e-10, atol=1e-12)


def test_with_gradients_another_form_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segkit.kernels.attention.tiled", None)
    q = torch.randn(1, 2, 4, 8, requires_grad=True)
    tables = [torch.randn(2, 2, 8)] * 2
    grid_attention(q, q, q, tables).sum().backward()
    assert q.grad is not None
