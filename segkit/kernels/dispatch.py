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
_PROBLEMS: dict[tuple[Check, torch.device, torch.dtype], str] = {}


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
    if key in _PROBLEMS:
        return not _PROBLEMS[key]
    if torch.compiler.is_compiling():
        return False
    if problem := problem_of(check, device, dtype):
        warnings.warn(
            f"the fused kernel of {check.__module__} {problem}; its reference is used on {device} "
            f"for {dtype}",
            RuntimeWarning,
            stacklevel=4,
        )
    return not problem


def problem_of(check: Check, device: torch.device, dtype: torch.dtype) -> str:
    """What is wrong with a kernel on a device, found once; empty if it works."""
    key = (check, device, dtype)
    if key not in _PROBLEMS:
        _PROBLEMS[key] = _found(check, device, dtype)
    return _PROBLEMS[key]


def _found(check: Check, device: torch.device, dtype: torch.dtype) -> str:
    try:
        # whether the caller records gradients or has autocast on is no business of a check
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
        ):
            error = check(device, dtype)
    except Exception as reason:  # whatever a compiler or driver raises: the reference still works
        return f"does not run here ({type(reason).__name__}: {reason})"
    if error <= _limit(dtype):
        return ""
    return f"is off by {error:.1e} of the largest value"


def _limit(dtype: torch.dtype) -> float:
    """What is allowed; with tf32 asked for, products of float32 have eleven bits."""
    is_rounded = torch.get_float32_matmul_precision() != "highest"
    return LIMITS[torch.float16 if is_rounded and dtype == torch.float32 else dtype]


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


def at_compute_type(x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    """Weights in the type that products with `x` are made in: that of autocast where it is on.

    Autocast does not reach into operators of our own. They take a wider `x` as it is, and their
    output has its type, as that of the sum in the reference.
    """
    if not torch.is_autocast_enabled(x.device.type):
        return weights
    kind = torch.get_autocast_dtype(x.device.type)
    return tuple(weight.to(kind) for weight in weights)


def why_not_triton(x: Tensor, *others: Tensor) -> str:
    """Say what keeps fused kernels from running on these tensors; empty if nothing does."""
    tensors = (x, *others)
    if not _HAS_TRITON:
        return "Triton is not installed (pip install segkit[triton])"
    if wrong := {str(t.dtype) for t in tensors if t.dtype not in FUSED_TYPES}:
        return f"kernels take float32, bfloat16 and float16, got {', '.join(sorted(wrong))}"
    kinds = {t.dtype for t in others} or {x.dtype}
    if len(kinds) > 1 or x.dtype not in (*kinds, torch.float32):
        named = ", ".join(sorted(str(kind) for kind in {x.dtype, *kinds}))
        return f"the tensors have several types: {named}"
    if len({t.device for t in tensors}) > 1:
        return "the tensors lie on several devices"
    return "" if all(t.is_cuda for t in tensors) else _ON_CPU


def shared_bytes(device: torch.device) -> int:
    """Shared memory that one program may use on a CUDA device."""
    about = torch.cuda.get_device_properties(device)
    # what may be asked for is more than what there is by default, where torch tells it
    return int(getattr(about, "shared_memory_per_block_optin", about.shared_memory_per_block))


def _is_interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"
