"""Compile every kernel for real graphics cards on a machine that has none.

Triton's compiler needs no device, only somebody to say which one is meant. Operators run on meta
tensors of the published shapes; what they launch is compiled and not run. Printed per kernel:
registers per thread, bytes of spilled registers, and shared memory, which must fit the card.

Run: python -m tools.compile_kernels [--arch 80 86 89 90] [--only CASE]
"""

import argparse
import contextlib
import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)  # before anything imports Triton

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from segkit.kernels.triton import launch

SHARED = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448}
"""Bytes of shared memory that one program may use, by compute capability (CUDA guide, table 24)."""
Row = dict[str, Any]
Case = tuple[str, Callable[..., Any], tuple[Any, ...]]


class Pretended:
    """A driver that only knows which card to compile for."""

    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_current_target(self) -> GPUTarget:
        """Card with warps of 32 threads."""
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        """One number per card: Triton keeps what it compiled by device, not by target."""
        return self.arch

    def get_current_stream(self, device: int) -> int:
        """Any number."""
        return device


def compiled(case: Case, arch: int) -> Iterator[Row]:
    """What one call launches on a card, compiled."""
    name, call, args = case
    launches: list[tuple[str, Any]] = []
    run = JITFunction.run

    def only_compile(self: Any, *given: Any, grid: Any, **options: Any) -> Any:
        kernel = run(self, *given, grid=grid, **(options | {"warmup": True}))
        launches.append((self.__name__, kernel, grid))
        return kernel

    triton.runtime.driver.set_active(Pretended(arch))
    JITFunction.run, real_card = only_compile, launch.card
    launch.card = lambda _device: launch.Card(arch, SHARED[arch])  # type: ignore[assignment]
    start = time.process_time()
    try:
        call(*args)
    finally:
        JITFunction.run, launch.card = run, real_card
    seconds = (time.process_time() - start) / max(1, len(launches))
    for kernel_name, kernel, grid in launches:
        yield {
            "case": name, "kernel": kernel_name, "card": f"sm_{arch}", **_used(kernel),
            "allowed": SHARED[arch], "grid": grid, "CPU s": round(seconds, 2),
        }  # fmt: skip


def _used(kernel: Any) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(kernel.asm["cubin"])
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        said = subprocess.run(
            [str(tool), "--dump-resource-usage", str(file)], check=True, capture_output=True
        ).stdout.decode()
    found = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", said))
    return {
        "warps": kernel.metadata.num_warps,
        "registers": int(found["REG"]),
        "stack": int(found["STACK"]) + int(found["LOCAL"]),
        "shared": kernel.metadata.shared,
    }


def cases(dtype: torch.dtype) -> Iterator[Case]:
    """Every operator at a published shape, forward and backward, on meta tensors."""
    from segkit.kernels.triton import attention, bottleneck, field, prompted

    def of(*shape: int, kind: torch.dtype = dtype) -> Tensor:
        return torch.empty(shape, dtype=kind, device="meta")

    def both(
        name: str, op: Any, backward: Any, args: tuple[Any, ...], extra: Any
    ) -> Iterator[Case]:
        yield f"{name}, forward", op._init_fn, args
        yield f"{name}, backward", backward._init_fn, extra

    def exact(*shape: int) -> Tensor:
        return of(*shape, kind=torch.float32)

    for name, size, dim, hidden, branches, taps, acts in (
        ("dilated 64x64, 448", (8, 1, 64, 64), 448, 224, 2, 9, ("gelu", "gelu")),
        ("spatial 32x32x32, 768", (1, 32, 32, 32), 768, 384, 1, 27, ("relu", "none")),
    ):
        args = (
            of(*size, dim), of(hidden, dim), of(hidden), of(branches, taps, hidden),
            of(branches, hidden), list(range(1, branches + 1)), of(dim, hidden), of(dim), *acts,
        )  # fmt: skip
        yield from both(
            name, bottleneck.bottleneck, bottleneck.bottleneck_backward, args,
            (of(*size, dim), *args),
        )  # fmt: skip
    for name, heads, grid, width in (
        ("attention 64x64, heads of 64", 12, (0, 64, 64), 64),
        ("attention 64x64, heads of 80", 16, (0, 64, 64), 80),
        ("attention 14x14, heads of 64", 300, (0, 14, 14), 64),
        ("attention 8x8x8, heads of 64", 768, (8, 8, 8), 64),
    ):
        tokens = max(grid[0], 1) * grid[1] * grid[2]
        qkv = (of(heads, tokens, width),) * 3
        biases = tuple(of(heads, tokens, side) for side in grid)
        yield from both(
            name, attention.grid_attention, attention.grid_attention_backward,
            (*qkv, *biases, 0.1),
            (qkv[0], qkv[0], exact(heads, tokens), *qkv, *biases, 0.1),
        )  # fmt: skip
    x, wide, narrow = of(8, 4096, 768), of(20, 768), of(10, 20)
    last, gate = (of(768, 20), of(768)), of(1)
    yield from both(
        "prompted 4096 tokens, 768", prompted.prompted, prompted.prompted_backward,
        (x, wide, of(20), narrow, *last, gate),
        (x, x, of(8, 4096, 20), exact(8, 10, 20), exact(8, 10), wide, narrow, *last, gate),
    )  # fmt: skip
    if dtype == torch.float32:
        yield "high pass 1024x1024", _high_pass, (of(24, 1024, 1024), torch.float32)
        yield "high pass 1024x1024 to bf16", _high_pass, (of(24, 1024, 1024), torch.bfloat16)
    points = exact(65_536, 2)
    maps = (of(1, 256, 256, 32), of(1, 64, 64, 256))
    layer = (of(1024, 351), of(1024))
    yield "field 351 -> 1024", field.field_layer._init_fn, (
        *maps, points, of(65_536, 63), None, *layer, "relu",
    )  # fmt: skip
    yield "field 1024 -> 512", field.dense_layer._init_fn, (
        of(65_536, 1024), of(512, 1024), of(512), "relu",
    )  # fmt: skip
    yield "field, sampling again", field.field_gather._init_fn, (maps[0], points, None, dtype)
    yield "field, scatter", field.field_scatter._init_fn, (of(65_536, 32), maps[0], points, None)


def _high_pass(x: Tensor, dtype: torch.dtype) -> None:
    from segkit.kernels.triton import highpass

    def band(size: int, half: int, device: torch.device) -> tuple[Tensor, Tensor]:
        del half
        return tuple(torch.empty(n, size, device=device) for n in (size, 2))  # type: ignore[return-value]

    def no_autocast(*_: object, **__: object) -> contextlib.nullcontext[None]:
        return contextlib.nullcontext()  # meta tensors have none that could be switched off

    originals = highpass._band, torch.autocast
    highpass._band, torch.autocast = band, no_autocast  # type: ignore[assignment, misc]
    try:
        highpass.high_pass._init_fn(x, 256, 256, True, dtype)
    finally:
        highpass._band, torch.autocast = originals  # type: ignore[misc]


def main() -> int:
    """Compile, print and write `results/kernels_compiled.*`; 1 if a kernel does not fit."""
    from benchmarks import table

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", type=int, nargs="+", default=[80, 90], choices=list(SHARED))
    parser.add_argument("--types", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--dry-run", action="store_true", help="print, write nothing")
    args = parser.parse_args()
    rows = []
    for arch in args.arch:
        for kind in args.types:
            for case in cases(getattr(torch, kind)):
                if args.only in case[0]:
                    for row in compiled(case, arch):
                        rows.append({"type": kind, **row})
                        print(json.dumps(rows[-1]), flush=True)
    notes = (
        "Registers per thread, bytes per thread of stack (registers that did not fit), and shared "
        "memory of one program in bytes. Compiled by the Triton named above, not run. Seconds are "
        "per kernel, and near 0 where its cache held the result of an earlier run."
    )
    if not args.dry_run:
        title = f"Kernels compiled for real cards, Triton {triton.__version__}"
        table.write("kernels_compiled", title, rows, notes=notes)
    return int(any(row["shared"] > row["allowed"] or row["stack"] for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
