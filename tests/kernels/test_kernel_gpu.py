"""What only a CUDA device can tell: published shapes, large tensors, the time of a first call."""

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from segkit.kernels import attention, dilated, dispatch, highpass, prompted, spatial3d, status
from segkit.kernels.dilated import Branch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
TYPES = [torch.bfloat16, torch.float16, torch.float32]


def draw(*shape: int, dtype: torch.dtype, scale: float = 0.5) -> Tensor:
    generator = torch.Generator(device="cuda").manual_seed(sum(shape))
    return (scale * torch.randn(shape, generator=generator, device="cuda")).to(dtype)


def nearly(
    fused: Callable[..., Tensor], usual: Callable[..., Tensor], inputs: list[Tensor]
) -> None:
    """As accurate as torch in the same type, both against float64; values and gradients."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    doubles = [x.detach().double().requires_grad_() for x in inputs]
    want = usual(*doubles)
    # along the output: else some gradients are small differences of large sums
    seed = want.detach()
    true = (want, *torch.autograd.grad(want, doubles, seed))
    runs = []
    for function in (fused, usual):
        out = function(*leaves)
        runs.append((out, *torch.autograd.grad(out, leaves, seed.to(out))))
    least = 2e-5 if inputs[0].dtype == torch.float32 else 4e-3
    for n, (mine, theirs, best) in enumerate(zip(*runs, true, strict=True)):
        off, allowed = (
            float((x.detach() - best.detach()).abs().max() / best.detach().abs().max())
            for x in (mine, theirs)
        )
        assert off <= 2 * allowed + least, f"number {n}: {off:.1e}, torch {allowed:.1e}"


def bottleneck(function: Callable[..., Tensor], **options: object) -> Callable[..., Tensor]:
    def call(x: Tensor, *rest: Tensor) -> Tensor:
        wd, bd, w1, b1, w3, b3, wu, bu = rest
        branches = [Branch(w1, b1, 1), Branch(w3, b3, 3)]
        return function(x, (wd, bd), branches, (wu, bu), **options)

    return call


def bottleneck_inputs(n: int, side: int, dim: int, dtype: torch.dtype) -> list[Tensor]:
    m = dim // 2
    shapes = [(m, dim), (m,), (m, 1, 3, 3), (m,), (m, 1, 3, 3), (m,), (dim, m), (dim,)]
    x = draw(n, side, side, dim, dtype=dtype)
    return [x, *(draw(*one, dtype=dtype, scale=one[-1] ** -0.5) for one in shapes)]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("check", status.CHECKS.values(), ids=list(status.CHECKS))
def test_every_kernel_works_here(check: dispatch.Check, dtype: torch.dtype) -> None:
    assert dispatch.problem_of(check, torch.device("cuda"), dtype) == ""


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("side", "dim"), [(64, 448), (33, 96), (7, 896)])
def test_dilated(side: int, dim: int, dtype: torch.dtype) -> None:
    nearly(
        bottleneck(dilated.dilated_bottleneck, impl="triton"),
        bottleneck(dilated.reference),
        bottleneck_inputs(2, side, dim, dtype),
    )


@pytest.mark.parametrize("dtype", TYPES)
def test_spatial(dtype: torch.dtype) -> None:
    shapes = [(96, 192), (96,), (96, 1, 3, 3, 3), (96,), (192, 96), (192,)]
    inputs = [draw(1, 9, 16, 16, 192, dtype=dtype)]
    inputs += [draw(*one, dtype=dtype, scale=one[-1] ** -0.5) for one in shapes]

    def of(function: Callable[..., Tensor], **options: object) -> Callable[..., Tensor]:
        return lambda x, a, b, c, d, e, f: function(x, (a, b), (c, d), (e, f), **options)

    nearly(of(spatial3d.spatial_bottleneck, impl="triton"), of(spatial3d.reference), inputs)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("grid", "width"),
    [
        ((64, 64), 64),
        ((64, 64), 80),
        ((32, 48), 64),
        ((14, 14), 64),
        ((14, 14), 80),
        ((8, 8, 8), 64),
    ],
)
def test_attention(grid: tuple[int, ...], width: int, dtype: torch.dtype) -> None:
    tokens = torch.Size(grid).numel()
    qkv = [draw(1, 2, tokens, width, dtype=dtype, scale=1.0) for _ in range(3)]
    tables = [draw(side, side, width, dtype=dtype, scale=0.1) for side in grid]

    def of(function: Callable[..., Tensor], **options: object) -> Callable[..., Tensor]:
        return lambda q, k, v, *tables: function(q, k, v, tables, **options)

    nearly(of(attention.grid_attention, impl="triton"), of(attention.reference), [*qkv, *tables])


@pytest.mark.parametrize("dtype", TYPES)
def test_prompts(dtype: torch.dtype) -> None:
    shapes = [(20, 768), (20,), (10, 20), (768, 20), (768,), (1,)]
    inputs = [draw(2, 4096, 768, dtype=dtype)]
    inputs += [draw(*one, dtype=dtype, scale=one[-1] ** -0.5) for one in shapes]

    def of(function: Callable[..., Tensor], **options: object) -> Callable[..., Tensor]:
        return lambda x, a, b, p, c, d, g: function(x, (a, b), p, (c, d), g, **options)

    nearly(of(prompted.prompted_bottleneck, impl="triton"), of(prompted.reference), inputs)


@pytest.mark.parametrize("size", [(1024, 1024), (1000, 777)])
def test_high_pass(size: tuple[int, int]) -> None:
    image, half = draw(1, 3, *size, dtype=torch.float32), (size[0] // 4, size[1] // 4)
    nearly(
        lambda x: highpass.high_pass(x, half, impl="triton"),
        lambda x: highpass.reference(x, half),
        [image],
    )


def test_more_numbers_than_32_bits_count() -> None:
    free, _ = torch.cuda.mem_get_info()
    if free < 40 << 30:
        pytest.skip("needs 40 GiB of free device memory")
    inputs = bottleneck_inputs(1, 4, 512, torch.bfloat16)
    call = bottleneck(dilated.dilated_bottleneck, impl="triton")
    small = inputs[0]
    large = small.expand(290_000, -1, -1, -1).contiguous()
    assert large.numel() > 2**31
    with torch.no_grad():
        found, want = call(large, *inputs[1:]), call(*inputs)
    assert torch.equal(found[-1:], want)
    assert torch.equal(found[:1], want)


def test_the_first_call_takes_seconds(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """Nothing is tuned at run time; what is compiled first is compiled once."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    inputs = bottleneck_inputs(2, 24, 80, torch.float16)
    start = time.perf_counter()
    with torch.no_grad():
        bottleneck(dilated.dilated_bottleneck, impl="triton")(*inputs)
    torch.cuda.synchronize()
    assert time.perf_counter() - start < 10


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_a_kernel_runs_where_its_tensors_are() -> None:
    inputs = [x.to("cuda:1") for x in bottleneck_inputs(1, 8, 64, torch.float32)]
    with torch.cuda.device(0), torch.no_grad():
        found = bottleneck(dilated.dilated_bottleneck, impl="triton")(*inputs)
    want = bottleneck(dilated.reference)(*inputs)
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)
