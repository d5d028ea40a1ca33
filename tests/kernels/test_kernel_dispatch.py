"""Choosing an implementation: never a wrong kernel, never a failure without a reason."""

import warnings

import pytest
import torch

from segkit.kernels import dispatch, status


def passes(_device: torch.device, _dtype: torch.dtype) -> float:
    return 0.0


CHECKS = list(status.CHECKS.values())


@pytest.mark.parametrize("check", CHECKS)
def test_checks_measure_every_kernel(check: dispatch.Check, device: str) -> None:
    assert 0 < check(torch.device(device), torch.float32) <= dispatch.LIMITS[torch.float32]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("check", CHECKS)
def test_checks_in_half_precision(check: dispatch.Check, dtype: torch.dtype, device: str) -> None:
    assert 0 < check(torch.device(device), dtype) <= dispatch.LIMITS[dtype]


def test_a_kernel_that_is_wrong_or_broken_is_left_out_with_one_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "why_not_triton", lambda *_: "")
    monkeypatch.setattr(dispatch, "_PROBLEMS", {})
    x = torch.zeros(1)

    def wrong(_device: torch.device, _dtype: torch.dtype) -> float:
        return 0.5

    def broken(_device: torch.device, _dtype: torch.dtype) -> float:
        raise RuntimeError("no such instruction")

    for check, reason in ((wrong, "is off by 5.0e-01"), (broken, "no such instruction")):
        with pytest.warns(RuntimeWarning, match=reason):
            assert not dispatch.use_triton("auto", x, check=check)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert not dispatch.use_triton("auto", x, check=check)
    assert dispatch.use_triton("auto", x, check=passes)


def test_reasons() -> None:
    x = torch.zeros(1)
    assert "not on a CUDA device" in dispatch.why_not_triton(x)
    assert "got torch.int64" in dispatch.why_not_triton(x.long())
    assert not dispatch.use_triton("auto", x, check=passes)


def test_without_triton_the_reference_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_HAS_TRITON", False)
    assert not dispatch.use_triton("auto", torch.zeros(1), check=passes)
    with pytest.raises(ValueError, match=r"got 'triton': Triton is not installed"):
        dispatch.use_triton("triton", torch.zeros(1), check=passes)


def test_types_must_agree_except_a_wider_input() -> None:
    x, half = torch.zeros(1), torch.zeros(1, dtype=torch.bfloat16)
    assert "not on a CUDA device" in dispatch.why_not_triton(x, half)
    assert "several types" in dispatch.why_not_triton(half, x)
    assert "several types" in dispatch.why_not_triton(x, x, half)


def test_weights_follow_autocast() -> None:
    x = torch.zeros(1)
    assert dispatch.at_compute_type(x, x)[0].dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert dispatch.at_compute_type(x, x)[0].dtype == torch.bfloat16


def test_a_check_runs_where_gradients_are_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_PROBLEMS", {})

    def needs_gradients(_device: torch.device, _dtype: torch.dtype) -> float:
        x = torch.ones(1, requires_grad=True)
        (slope,) = torch.autograd.grad((x * x).sum(), x)
        return float(slope - 2)

    with torch.inference_mode():
        assert dispatch.problem_of(needs_gradients, torch.device("cpu"), torch.float32) == ""


def test_states_say_why_a_kernel_is_not_used() -> None:
    found = status.states(torch.device("cpu"))
    assert set(found) == set(status.CHECKS)
    assert all("not on a CUDA device" in state for state in found.values())
