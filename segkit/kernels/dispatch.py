"""Which implementation of an operation runs: a plain `if` over facts of the tensors."""

import os
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal, get_args

import torch
from torch import Tensor

Impl = Literal["auto", "reference", "triton"]
"""`auto` runs the fused form where it can; `triton` insists and says why it cannot."""

FUSED_TYPES = (torch.float32, torch.bfloat16, torch.float16)


Check = Callable[[torch.device, torch.dtype], float]
"""Largest relative error of a fused form against its reference on a small input."""

LIMITS = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
_PASSED: dict[tuple[Check, torch.device, torch.dtype], bool] = {}


def use_triton(impl: Impl, *tensors: Tensor, check: Check, obstacle: str = "") -> bool:
    """Decide for one call. `obstacle` names what else, besides the tensors, stands in the way.

    Before "auto" uses a kernel on a device for the first time, `check` compares it with its
    reference there; a kernel that is wrong or does not compile is left out with one warning. Under
    the interpreter (TRITON_INTERPRET=1) kernels run on CPU tensors, slowly, for tests: only
    `impl="triton"` chooses that.

    Raises:
        ValueError: The implementation is unknown, or "triton" was asked for and cannot run.
    """
    if impl not in get_args(Impl):
        raise ValueError(f"impl must be one of {get_args(Impl)}, got {impl!r}")
    if impl == "reference":
        return False
    obstacle = obstacle or why_not_triton(*tensors)
    if impl == "triton":
        if obstacle and not (obstacle == _ON_CPU and _is_interpreted()):
            raise ValueError(f"impl must be 'auto' or 'reference' here, got 'triton': {obstacle}")
        return True
    return not obstacle and _passes(check, tensors[0].device, tensors[0].dtype)


def _passes(check: Check, device: torch.device, dtype: torch.dtype) -> bool:
    """Run a check once per device and type; what is being compiled is not checked."""
    key = (check, device, dtype)
    if key not in _PASSED:
        if torch.compiler.is_compiling():
            return False
        _PASSED[key] = _run(check, device, dtype)
    return _PASSED[key]


def _run(check: Check, device: torch.device, dtype: torch.dtype) -> bool:
    try:
        error = check(device, dtype)
    except Exception as reason:  # whatever a compiler or driver raises: the reference still works
        problem = f"does not run here ({type(reason).__name__}: {reason})"
    else:
        if error <= LIMITS[dtype]:
            return True
        problem = f"is off by {error:.1e} of the largest value"
    warnings.warn(
        f"the fused kernel of {check.__module__} {problem}; its reference is used on {device} for "
        f"{dtype}",
        RuntimeWarning,
        stacklevel=4,
    )
    return False


def relative_error(got: Tensor, want: Tensor, inputs: tuple[Tensor, ...]) -> float:
    """Largest difference of two results and of their gradients, relative to the largest value."""
    seed = torch.linspace(-1, 1, want.numel(), device=want.device).view(want.shape)
    pairs = zip(
        (got, *torch.autograd.grad((got.float() * seed).sum(), inputs, retain_graph=True)),
        (want, *torch.autograd.grad((want.float() * seed).sum(), inputs)),
        strict=True,
    )
    return max(_off(a.detach().float(), b.detach().float()) for a, b in pairs)


def _off(got: Tensor, want: Tensor) -> float:
    return float((got - want).abs().max() / want.abs().max().clamp(min=0.1))


def sample(
    shapes: tuple[tuple[int, ...], ...], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """Inputs of a check: the same smooth numbers each time, without touching any random state."""
    return tuple(
        torch.sin(torch.arange(torch.Size(shape).numel(), device=device) * 0.37 + n)
        .mul(0.5)
        .view(shape)
        .to(dtype)
        .requires_grad_()
        for n, shape in enumerate(shapes)
    )


_ON_CPU = "the tensors are not on a CUDA device"
_HAS_TRITON = find_spec("triton") is not None


def why_not_triton(*tensors: Tensor) -> str:
    """Say what keeps fused kernels from running on these tensors; empty if nothing does."""
    if not _HAS_TRITON:
        return "Triton is not installed (pip install segkit[triton])"
    if wrong := {str(t.dtype) for t in tensors if t.dtype not in FUSED_TYPES}:
        return f"kernels take float32, bfloat16 and float16, got {', '.join(sorted(wrong))}"
    if len({t.device for t in tensors}) > 1:
        return "the tensors lie on several devices"
    return "" if all(t.is_cuda for t in tensors) else _ON_CPU


def _is_interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"
