"""Attention with relative positions: the fused form against float64, values and every gradient."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from segkit.kernels.attention import grid_attention, reference, widened

Check = Callable[..., None]


def inputs_of(n: int, heads: int, shape: tuple[int, ...], width: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.Size(shape).numel()
    qkv = [torch.randn(n, heads, tokens, width, generator=generator) for _ in range(3)]
    tables = [torch.randn(side, side, width, generator=generator) * 0.3 for side in shape]
    return [*qkv, *tables]


@pytest.mark.parametrize(
    ("n", "heads", "shape", "width"),
    [
        (1, 2, (5, 7), 8),
        (2, 1, (3, 3), 80),
        (1, 1, (9, 8), 16),
        (2, 2, (2, 3, 4), 12),
        (1, 1, (1, 1), 64),
    ],
)
def test_agrees_with_float64(
    n: int, heads: int, shape: tuple[int, ...], width: int, device: str, agrees: Check
) -> None:
    agrees(
        lambda q, k, v, *tables: grid_attention(q, k, v, tables, impl="triton"),
        lambda q, k, v, *tables: reference(q, k, v, tables),
        [x.to(device) for x in inputs_of(n, heads, shape, width)],
        rtol=2e-5,
    )


@pytest.mark.parametrize("shape", [(5, 7), (1, 1), (2, 3, 4)])
def test_wider_vectors_are_the_same_function(shape: tuple[int, ...], agrees: Check) -> None:
    agrees(
        lambda q, k, v, *tables: widened(q, k, v, tables),
        lambda q, k, v, *tables: reference(q, k, v, tables),
        inputs_of(2, 3, shape, 10),
        rtol=2e-5,
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype, device: str, agrees: Check) -> None:
    agrees(
        lambda q, k, v, *tables: grid_attention(q, k, v, tables, impl="triton"),
        lambda q, k, v, *tables: reference(q, k, v, tables),
        [x.to(device, dtype) for x in inputs_of(1, 2, (4, 6), 16)],
        rtol=4e-2 if dtype == torch.bfloat16 else 6e-3,
    )


def test_reference_is_sams_attention() -> None:
    import segkit.torchvision_compat  # noqa: F401  (makes torchvision importable)

    encoder = pytest.importorskip("segment_anything.modeling.image_encoder")

    torch.manual_seed(0)
    module = encoder.Attention(24, num_heads=3, use_rel_pos=True, input_size=(4, 6))
    for table in (module.rel_pos_h, module.rel_pos_w):
        torch.nn.init.normal_(table)
    x = torch.randn(2, 4, 6, 24)
    q, k, v = module.qkv(x).view(2, 24, 3, 3, 8).permute(2, 0, 3, 1, 4)
    tables = [t[_between(n) + n - 1] for n, t in ((4, module.rel_pos_h), (6, module.rel_pos_w))]
    found = reference(q, k, v, tables).transpose(1, 2).reshape(2, 4, 6, 24)
    torch.testing.assert_close(module.proj(found), module(x))


def _between(side: int) -> Tensor:
    return torch.arange(side)[:, None] - torch.arange(side)[None]


@pytest.mark.slow
def test_registration_is_complete(device: str) -> None:
    from segkit.kernels.triton.attention import grid_attention as op

    generator = torch.Generator().manual_seed(1)
    sizes = [(2, 6, 8)] * 3 + [(2, 6, 0), (2, 6, 2), (2, 6, 3)]
    args = [torch.randn(s, generator=generator).to(device).requires_grad_() for s in sizes]
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(op, (*args, 0.35), test_utils=tests)


def test_impossible_calls_say_why() -> None:
    q, k, v, *tables = inputs_of(1, 1, (2, 3), 8)
    with pytest.raises(ValueError, match=r"tables of a grid \[2, 3\] do not fit 5 tokens"):
        grid_attention(q[:, :, :5], k, v, tables)
    with pytest.raises(ValueError, match="impl must be one of"):
        grid_attention(q, k, v, tables, impl="fast")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"float32, bfloat16 and float16, got torch\.float64"):
        grid_attention(
            q.double(), k.double(), v.double(), [t.double() for t in tables], impl="triton"
        )
    wide = [x.repeat(1, 1, 1, 40) for x in (q, k, v)]
    with pytest.raises(ValueError, match="head width must be <= 128, got 320"):
        grid_attention(*wide, [t.repeat(1, 1, 40) for t in tables], impl="triton")
    long = inputs_of(1, 1, (1, 129), 2)
    with pytest.raises(ValueError, match="the last axis must be <= 128, got 129"):
        grid_attention(*long[:3], long[3:], impl="triton")
    large = inputs_of(1, 1, (1, 65), 128)
    with pytest.raises(ValueError, match=r"heads of 128 in torch.float32 beside a last axis of 65"):
        grid_attention(*large[:3], large[3:], impl="triton")
    torch.testing.assert_close(grid_attention(q, k, v, tables), reference(q, k, v, tables))
