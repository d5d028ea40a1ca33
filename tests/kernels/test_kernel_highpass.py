"""High-pass image: the separable form against the transform in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from segkit.kernels.highpass import by_real_transform, high_pass, reference

Check = Callable[..., None]


def image_of(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(4)) - 0.3


SHAPES = [
    ((1, 3, 16, 16), (4, 4)),  # frequency -half has no mirror image
    ((2, 1, 15, 22), (3, 5)),
    ((1, 1, 20, 9), (0, 2)),  # nothing is low
    ((1, 1, 8, 7), (4, 3)),  # half the even axis, up to the middle of the odd one
    ((1, 2, 6, 70), (9, 20)),  # everything is low along the rows
    ((1, 1, 1, 5), (1, 1)),
    ((1, 1, 65, 33), (16, 8)),
]


@pytest.mark.parametrize(("shape", "half"), SHAPES)
def test_half_of_the_spectrum_is_enough(shape: tuple[int, ...], half: tuple[int, int]) -> None:
    image = image_of(*shape).double()
    torch.testing.assert_close(
        by_real_transform(image, half), reference(image, half), rtol=0, atol=1e-13
    )


@pytest.mark.parametrize(("shape", "half"), SHAPES)
def test_agrees_with_float64(
    shape: tuple[int, ...], half: tuple[int, int], device: str, agrees: Check
) -> None:
    agrees(
        lambda x: high_pass(x, half, impl="triton"),
        lambda x: reference(x, half),
        [image_of(*shape).to(device)],
        rtol=3e-5,
    )


def test_images_that_are_not_contiguous(device: str) -> None:
    image = image_of(2, 3, 20, 12).to(device)
    turned = image.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert not turned.is_contiguous()
    torch.testing.assert_close(
        high_pass(turned, (5, 3), impl="triton"), reference(image, (5, 3)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_out_and_in(dtype: torch.dtype, device: str) -> None:
    image = image_of(1, 1, 18, 20).to(device)
    want = reference(image, (4, 5))
    got = high_pass(image, (4, 5), dtype=dtype, impl="triton")
    assert got.dtype == dtype
    torch.testing.assert_close(got.float(), want, rtol=1e-2, atol=1e-2)
    exact = high_pass(image.to(dtype), (4, 5), impl="triton")
    assert exact.dtype == torch.float32
    torch.testing.assert_close(exact, reference(image.to(dtype), (4, 5)), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_registration_is_complete(device: str) -> None:
    from segkit.kernels.triton.highpass import high_pass as op

    image = image_of(1, 10, 12).to(device).requires_grad_()
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(op, (image, 3, 3, True, torch.float32), test_utils=tests)


def test_whole_graph_compiles(device: str) -> None:
    image = image_of(1, 1, 12, 10).to(device)
    compiled = torch.compile(
        lambda x: high_pass(x, (3, 2), impl="triton"), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(compiled(image), reference(image, (3, 2)), rtol=1e-4, atol=1e-5)


def test_double_precision_takes_the_reference() -> None:
    image = image_of(1, 1, 8, 8).double()
    assert high_pass(image, (2, 2)).dtype == torch.float64
    with pytest.raises(ValueError, match=r"got torch\.float64"):
        high_pass(image, (2, 2), impl="triton")
