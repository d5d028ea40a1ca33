"""Kernels compile for a real card where there is none."""

import os
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_kernels_fit_an_h200() -> None:
    pytest.importorskip("triton", reason="extra [triton]")
    command = [sys.executable, "-m", "tools.compile_kernels", "--dry-run", "--arch", "90"]
    command += ["--types", "bfloat16", "--only", "prompted"]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count('"stack": 0') == 5


def test_cards_are_told_apart() -> None:
    pytest.importorskip("triton", reason="extra [triton]")
    code = (
        "from tools.compile_kernels import Pretended; "
        "print(*(Pretended(arch).get_current_device() for arch in (80, 90)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(set(run.stdout.split())) == 2  # else Triton answers with the kernels of the first
