"""Fused kernels against torch, its compiler and the authors' modules: rows K1 to K10.

Run on a CUDA device: python -m benchmarks.bench_kernels [--only K7] [--type bfloat16]
Needs torch and triton only. Checkouts of the authors are named by DD_SAM2, SAM3D_ADAPTER and
SAM_FAST; without them their rows say so. Without a CUDA device every row reads "not run".
`TRITON_INTERPRET=1 ... --dry-run` puts every case at a tiny size through the whole harness on the
CPU and writes nothing.
"""

import argparse
from collections.abc import Iterator

import torch

from benchmarks import table
from benchmarks.gpu import Row, absent_rows, anchors, contest, rows_of
from benchmarks.kernel_cases import (
    Setting,
    all_cases,
    dilated_call,
    dilated_inputs,
    saved_bytes,
    sizes_note,
)
from segkit.kernels import dilated

COMMAND = "python -m benchmarks.bench_kernels"
ROWS = (
    ("K1", "DD adapter forward, B+ 24 blocks, batch 8 @1024", ">= 3.5x eager, >= 1.6x compile"),
    ("K2", "DD adapter forward + backward, same", ">= 4x eager, >= 1.8x compile"),
    ("K3", "DD adapter, bytes kept for the backward pass", "<= 0.25x"),
    ("K4", "3D adapter, 32^3, 768 -> 384", ">= 4x / 5x authors, >= 2x compile"),
    ("K5", "depthwise 3x3x3 alone, channels last, 384, 32^3", ">= 3x best"),
    ("K6", "high pass @1024, batch 8", ">= 20x authors, >= 2x rfft2 compile"),
    ("K7", "global attention 64x64, heads of 64 and 80", ">= 1.15x best, backward >= 1.5x"),
    ("K8", "window attention 14x14", ">= 1.3x best"),
    ("K9", "field, 512x512 points", ">= 6x authors, >= 2x compile"),
    ("K10", "DVPT prompts", ">= 3x eager, >= 1.2x compile, SDPA"),
)


def run(setting: Setting, only: str, rounds: int) -> Iterator[Row]:
    """Every case whose row is asked for, one after the other."""
    limits = anchors(setting.device)
    for case in all_cases(setting):
        if only in ("", case.row):
            yield from rows_of(case, contest(case, setting.device, rounds=rounds), limits)
    if only in ("", "K3"):
        yield from _kept(setting)


def _kept(setting: Setting) -> Iterator[Row]:
    """Bytes kept for the backward pass; counted, so they are the same on every machine."""
    inputs = dilated_inputs(setting, 1, 16 if setting.is_dry else 64, 32 if setting.is_dry else 448)
    usual = saved_bytes(dilated_call(dilated.reference), inputs)
    ours = saved_bytes(dilated_call(dilated.dilated_bottleneck, impl="triton"), inputs)
    for name, kept in (("segkit", ours), ("eager", usual)):
        yield {
            "row": "K3", "what": f"kept for backward, {tuple(inputs[0].shape)}",
            "contender": name, "kept MB": kept / 1e6, "of eager": kept / usual,
            "target": "<= 0.25x" if name == "segkit" else None,
        }  # fmt: skip


def main() -> None:
    """Measure and write `results/kernels.*`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", choices=["", *(row for row, *_ in ROWS)])
    parser.add_argument("--type", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--rounds", type=int, default=20, help="timed rounds per case")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on the CPU, no result")
    args = parser.parse_args()
    if args.dry_run:
        dry = Setting(torch.device("cpu"), torch.float32, is_dry=True)
        for row in run(dry, args.only, rounds=2):
            print(row, flush=True)
        return
    if not torch.cuda.is_available():
        print(table.write("kernels", "Fused kernels", absent_rows(ROWS, COMMAND)).read_text())
        return
    setting = Setting(torch.device("cuda"), getattr(torch, args.type), is_dry=False)
    rows = []
    for row in run(setting, args.only, args.rounds):
        rows.append(row)
        print(row, flush=True)
    print(table.write("kernels", "Fused kernels", rows, notes=sizes_note()).read_text())


if __name__ == "__main__":
    main()
