"""Encoders on a CUDA device, and the list of GPU rows that have no runner yet.

Run on a CUDA device: python -m benchmarks.bench_gpu. Encoders have random weights, which no time
depends on: ours in bf16 against the official module in float32 and in bf16, in turns. Without a
device every row reads "not run".
"""

import argparse
import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks import table
from benchmarks.gpu import Row, absent_rows, clocked, median_and_spread
from segkit.adapters.base import Adapter
from segkit.backbones.sam import SamBackbone
from segkit.backbones.sam_modules import VIT_B, VIT_H, SamModules, SamSizes
from segkit.typing import Grid

COMMAND = "python -m benchmarks.bench_gpu"
ENCODERS = (
    ("EN1", "ViT-H, batch 8 @1024", ">= 70 img/s"),
    ("EN2", "ViT-B, batch 8 @1024", ">= 420 img/s"),
)
NO_RUNNER = (
    ("EN3", "SAM2.1 B+, batch 8", ">= 600 img/s"),
    ("EN4", "SAM2.1 L, batch 8", ">= 220 img/s"),
    ("EN5", "SAM2.1 T, batch 8", ">= 1,200 img/s"),
    ("EN7", "ratio to segment-anything-fast", ">= 1.15x"),
    ("EN8", "masks against float32", "IoU >= .995"),
    ("CK1", "decoder p50, CUDA graph", "<= 0.5 ms"),
    ("CK2", "click to mask at 512x512, p50 / p99", "<= 1.0 ms / <= 2 x p50"),
    ("CK3", "ratio to SamPredictor", ">= 6x"),
    ("CK4", "ratio to SAM2ImagePredictor", ">= 3x"),
    ("VD1", "video, 1 object, B+", ">= 250 FPS, >= 2x official"),
    ("VD2", "video, 4 objects", ">= 2.5x official"),
    ("VD3", "video, 10 objects", ">= 4x official"),
    ("VD4", "state per frame and object", "<= 16 kB"),
    ("VD5", "growth from 1k to 10k frames", "<= 64 MB"),
    ("VD6", "masks against official eager, float32", "bit-identical"),
    ("TR1", "3DSAM 128^3 step, samples/s", ">= 6x authors"),
    ("TR2", "same, peak memory", "<= 0.2x"),
    ("TR3", "DD-SAM2 512, 8-frame clip, samples/s", ">= 3x authors"),
    ("TR4", "same, peak memory", "<= 0.5x"),
    ("TR5", "frozen stem cached", ">= 1.0x"),
)


def encoders(sizes: SamSizes, row: str, target: str, batch: int = 8) -> Iterator[Row]:
    """Our loop in bf16 beside the official module, and the ratio of EN6."""
    device = torch.device("cuda")
    modules = SamModules(sizes).eval().to(device)
    half = copy.deepcopy(modules.image_encoder).bfloat16()
    ours = SamBackbone(copy.deepcopy(half), sizes, Adapter).eval()
    # two batches are more than the cache holds
    images = [torch.rand(batch, 3, 1024, 1024, device=device) for _ in range(2)]
    small, grid = [x.bfloat16() for x in images], Grid((1, 1024, 1024))
    calls = {
        "segkit bf16": lambda n: ours(small[n], grid).levels[-1],
        "official bf16": lambda n: half(small[n]),
        "official float32": lambda n: modules.image_encoder(images[n]),
    }
    yield from _timed(calls, row, f"{sizes.name}, batch {batch} @1024", target, batch)


def _timed(calls: dict, row: str, what: str, target: str, batch: int) -> Iterator[Row]:
    results: dict[str, Tensor] = {name: call(0) for name, call in calls.items()}
    want = results["official bf16"].float()
    off = float((results["segkit bf16"].float() - want).abs().max() / want.abs().max())
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(13):
        for name, call in calls.items():
            took = clocked(lambda c=call, n=turn % 2: c(n), torch.device("cuda"))
            if turn >= 3:
                samples[name].append(took)
    ours, _ = median_and_spread(samples["segkit bf16"])
    for name, times in samples.items():
        median, spread = median_and_spread(times)
        is_ours = name == "segkit bf16"
        yield {
            "row": row, "what": what, "contender": name, "img/s": 1e3 * batch / median,
            "median ms": median, "spread ms": spread, "peer / segkit": median / ours,
            "target": target if is_ours else None,
            "note": f"off by {off:.1e} of official bf16" if is_ours else None,
        }  # fmt: skip


@torch.inference_mode()
def main() -> None:
    """Measure and write `results/gpu.*`."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    rows: list[Row] = []
    if torch.cuda.is_available():
        for sizes, (row, _, target) in zip((VIT_H, VIT_B), ENCODERS, strict=True):
            rows += encoders(sizes, row, target)
            torch.cuda.empty_cache()
    else:
        rows += absent_rows(ENCODERS, COMMAND)
        rows += absent_rows([("EN6", "ratio to official float32", ">= 9x")], COMMAND)
    rows += [
        {"row": row, "what": what, "contender": "segkit", "median ms": "not run",
         "target": target, "note": "no runner for this row yet"}
        for row, what, target in NO_RUNNER
    ]  # fmt: skip
    notes = "EN6 is the column peer / segkit of the rows `official float32`."
    print(table.write("gpu", "Encoders, clicks, video, training on a GPU", rows, notes=notes))


if __name__ == "__main__":
    main()
