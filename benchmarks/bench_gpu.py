"""Whole models on a CUDA device: encoders (EN), clicks (CK), video (VD, VL), training (TR).

Run on a CUDA device: python -m benchmarks.bench_gpu [--only EN]
Random weights, which no time depends on (but nano for EN8); ours in bf16. Every contender is
checked against a float32 result before it is timed. Peers: the official modules, `sam2` where it
is installed, segment-anything-fast where SAM_FAST names a checkout. Without a device every row
reads "not run"; `--dry-run` puts all of them at tiny sizes through the harness on the CPU and
writes nothing.
"""

import argparse
from collections.abc import Iterator

import torch

from benchmarks import gpu_clicks, gpu_encoders, gpu_train, gpu_video, gpu_volume, table
from benchmarks.gpu import Row, absent_rows
from benchmarks.gpu_race import Bench

COMMAND = "python -m benchmarks.bench_gpu"
PAGES = {"EN": gpu_encoders, "CK": gpu_clicks, "VD": gpu_video, "VL": gpu_volume, "TR": gpu_train}
ROWS = (
    ("EN1", "ViT-H, batch 8 @1024", ">= 70 img/s"),
    ("EN2", "ViT-B, batch 8 @1024", ">= 420 img/s"),
    ("EN3", "SAM2.1 B+, batch 8", ">= 600 img/s"),
    ("EN4", "SAM2.1 L, batch 8", ">= 220 img/s"),
    ("EN5", "SAM2.1 T, batch 8", ">= 1,200 img/s"),
    ("EN6", "ratio to official float32 (rows EN1, EN2)", ">= 9x"),
    ("EN7", "ratio to segment-anything-fast (rows EN1, EN2)", ">= 1.15x"),
    ("EN8", "masks against float32", "IoU >= .995"),
    ("CK1", "decoder p50, CUDA graph", "<= 0.5 ms"),
    ("CK2", "click to mask at 512x512, p50 / p99", "<= 1.0 ms / <= 2 x p50"),
    ("CK3", "ratio to SamPredictor (row CK2)", ">= 6x"),
    ("CK4", "ratio to SAM2ImagePredictor", ">= 3x"),
    ("VD1", "video, 1 object, B+", ">= 250 FPS, >= 2x official"),
    ("VD2", "video, 4 objects", ">= 2.5x official"),
    ("VD3", "video, 10 objects", ">= 4x official"),
    ("VL1", "512x512x200 CT as video, T and B+", ">= 5x official"),
    ("VL2", "same, peak device memory", "<= 0.35x official"),
    ("TR1", "3DSAM 128^3 step, samples/s", ">= 6x authors"),
    ("TR2", "same, peak memory", "<= 0.2x"),
    ("TR3", "DD-SAM2 512, 8-frame clip, samples/s", ">= 3x authors"),
    ("TR4", "same, peak memory", "<= 0.5x"),
)
ELSEWHERE = (
    ("VD4", "state per frame and object", "<= 16 kB", "python -m benchmarks.bench_video"),
    ("VD5", "growth from 1k to 10k frames", "<= 64 MB", "python -m benchmarks.bench_video"),
    ("VD6", "masks against official eager, float32", "bit-identical",
     "python -m tools.parity.sam2_video --out REPORT.md"),
    ("TR5", "frozen stem cached", ">= 1.0x", "python -m benchmarks.bench_features"),
)  # fmt: skip
"""Rows that a CPU measures as well, with the command that does."""


def rows(bench: Bench, only: str = "") -> Iterator[Row]:
    """Rows whose name starts with `only`, such as "EN" or "CK1"."""
    for page, module in PAGES.items():
        if page.startswith(only[:2]):
            yield from module.all_rows(bench, only)
            if bench.device.type == "cuda":
                torch.cuda.empty_cache()


def main() -> None:
    """Measure and write `results/gpu.*`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", metavar="ROW", help="such as EN, or CK1")
    parser.add_argument("--rounds", type=int, default=20, help="timed rounds per row")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on the CPU, no result")
    args = parser.parse_args()
    if args.dry_run:
        for row in rows(Bench.dry(), args.only):
            print(row, flush=True)
        return
    found: list[Row] = []
    if torch.cuda.is_available():
        for row in rows(Bench(torch.device("cuda"), torch.bfloat16, rounds=args.rounds), args.only):
            found.append(row)
            print(row, flush=True)
    else:
        found += absent_rows(ROWS, COMMAND)
    found += [
        {"row": row, "what": what, "contender": "segkit", "target": target,
         "note": f"not a matter of the device: {command}"}
        for row, what, target, command in ELSEWHERE
    ]  # fmt: skip
    notes = "EN6 is the column peer / segkit of the rows `official float32`, EN7 that of `fast`."
    title = "Encoders, clicks, video, volumes, training on a GPU"
    print(table.write("gpu", title, found, notes=notes).read_text())


if __name__ == "__main__":
    main()
