"""Poisoned memory and float64 references; tests/conftest.py chooses the interpreter."""

from collections.abc import Callable

import pytest
import torch

pytest.importorskip("triton", reason="extra [triton]")


@pytest.fixture
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel does not write is NaN."""
    import segkit.kernels.triton.launch as launch

    def fresh(shape, like, dtype=None):  # type: ignore[no-untyped-def]
        return torch.full(tuple(shape), torch.nan, dtype=dtype or like.dtype, device=like.device)

    for name in ("depthwise", "linear", "attention", "prompted", "highpass", "field"):
        monkeypatch.setattr(f"segkit.kernels.triton.{name}.fresh", fresh)
    assert launch.fresh is not fresh


@pytest.fixture
def agrees() -> Callable[..., None]:
    """Compare values and every gradient of a fused form with float64 references."""

    def check(fused, exact, inputs, *, rtol: float) -> None:  # type: ignore[no-untyped-def]
        doubles = [x.detach().double().requires_grad_() for x in inputs]
        singles = [x.detach().requires_grad_() for x in inputs]
        want, got = exact(*doubles), fused(*singles)
        weight = torch.randn(want.shape, generator=torch.Generator().manual_seed(9)).to(want)
        (want * weight).sum().backward()
        (got * weight.to(got)).sum().backward()
        _close(got, want, rtol, "the output")
        for n, (one, two) in enumerate(zip(singles, doubles, strict=True)):
            _close(one.grad, two.grad, rtol, f"the gradient of input {n}")

    return check


def _close(got: torch.Tensor, want: torch.Tensor, rtol: float, what: str) -> None:
    assert got is not None, f"{what} is missing"
    off = (got.double() - want).abs().max() / want.abs().max().clamp(min=0.1)
    assert off <= rtol, f"{what} is off by {float(off):.2e} of its largest value"
