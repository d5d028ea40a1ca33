"""Any small shape: the fused forms against float64, values and every gradient."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from segkit.kernels import attention, dilated, field, highpass, prompted, spatial3d
from segkit.kernels.dilated import Branch

Check = Callable[..., None]
pytestmark = pytest.mark.slow
few = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
side, width = st.integers(1, 7), st.integers(1, 19)


def draw(*shapes: tuple[int, ...], device: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [(0.5 * torch.randn(shape, generator=generator)).to(device) for shape in shapes]


@few
@given(n=st.integers(1, 2), h=side, w=side, dim=width, hidden=width, rate=st.integers(1, 5))
def test_dilated(
    device: str, agrees: Check, n: int, h: int, w: int, dim: int, hidden: int, rate: int
) -> None:
    inputs = draw(
        (n, h, w, dim), (hidden, dim), (hidden,), (hidden, 1, 3, 3), (hidden,), (dim, hidden),
        (dim,), device=device,
    )  # fmt: skip

    def of(function: Callable[..., Tensor], **options: object) -> Callable[..., Tensor]:
        return lambda x, a, b, c, d, e, f: function(
            x, (a, b), [Branch(c, d, rate)], (e, f), **options
        )

    agrees(of(dilated.dilated_bottleneck, impl="triton"), of(dilated.reference), inputs, rtol=3e-5)


@few
@given(n=st.integers(1, 2), d=side, h=side, w=side, dim=width, hidden=width)
def test_spatial(
    device: str, agrees: Check, n: int, d: int, h: int, w: int, dim: int, hidden: int
) -> None:
    inputs = draw(
        (n, d, h, w, dim), (hidden, dim), (hidden,), (hidden, 1, 3, 3, 3), (hidden,),
        (dim, hidden), (dim,), device=device,
    )  # fmt: skip

    def of(function: Callable[..., Tensor], **options: object) -> Callable[..., Tensor]:
        return lambda x, a, b, c, d, e, f: function(x, (a, b), (c, d), (e, f), **options)

    agrees(
        of(spatial3d.spatial_bottleneck, impl="triton"), of(spatial3d.reference), inputs, rtol=3e-5
    )


@few
@given(grid=st.lists(side, min_size=2, max_size=3), heads=st.integers(1, 3), dim=width)
def test_attention(device: str, agrees: Check, grid: list[int], heads: int, dim: int) -> None:
    tokens = torch.Size(grid).numel()
    shapes = [(1, heads, tokens, dim)] * 3 + [(one, one, dim) for one in grid]

    def of(function: Callable[..., Tensor], **options: object) -> Callable[..., Tensor]:
        return lambda q, k, v, *tables: function(q, k, v, tables, **options)

    agrees(
        of(attention.grid_attention, impl="triton"), of(attention.reference),
        draw(*shapes, device=device), rtol=3e-5,
    )  # fmt: skip


@few
@given(n=st.integers(1, 3), tokens=st.integers(1, 150), dim=width, asked=width, inner=width)
def test_prompts(
    device: str, agrees: Check, n: int, tokens: int, dim: int, asked: int, inner: int
) -> None:
    inputs = draw(
        (n, tokens, dim), (inner, dim), (inner,), (asked, inner), (dim, inner), (dim,), (1,),
        device=device,
    )  # fmt: skip

    def of(function: Callable[..., Tensor], **options: object) -> Callable[..., Tensor]:
        return lambda x, a, b, p, c, d, g: function(x, (a, b), p, (c, d), g, **options)

    agrees(
        of(prompted.prompted_bottleneck, impl="triton"), of(prompted.reference), inputs, rtol=3e-5
    )


@few
@given(h=st.integers(1, 40), w=st.integers(1, 40), half=st.tuples(side, side))
def test_high_pass(device: str, agrees: Check, h: int, w: int, half: tuple[int, int]) -> None:
    agrees(
        lambda x: highpass.high_pass(x, half, impl="triton"),
        lambda x: highpass.reference(x, half),
        draw((1, 2, h, w), device=device),
        rtol=3e-5,
    )


@few
@given(
    size=st.lists(side, min_size=2, max_size=3), n=st.integers(1, 3), points=st.integers(1, 80),
    channels=width, codes=width, outs=width,
)  # fmt: skip
def test_field(
    device: str, agrees: Check, size: list[int], n: int, points: int, channels: int, codes: int,
    outs: int,
) -> None:  # fmt: skip
    inputs = draw(
        (n, channels, *size), (1, 3, *size), (points, codes), (outs, channels + 3 + codes), (outs,),
        device=device,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    places = (2.2 * torch.rand(points, len(size), generator=generator) - 1.1).to(device)
    agrees(
        lambda c, p, d, *layer: field.field_layer(c, p, places, d, layer, impl="triton"),
        lambda c, p, d, *layer: field.reference(c, p, places, d, layer),
        inputs,
        rtol=3e-5,
    )
