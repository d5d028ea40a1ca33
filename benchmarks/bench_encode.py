"""Encoders and clicks on the CPU: our loop against the official package, in one run.

Run: python -m benchmarks.bench_encode [--full]   (--full adds ViT-B at 1024 x 1024)
"""

import argparse
from collections.abc import Iterator

import torch

from benchmarks import table
from benchmarks.timing import measure
from segkit.adapters.base import Adapter
from segkit.backbones.sam import SamBackbone
from segkit.backbones.sam_modules import NANO, VIT_B, SamModules, SamSizes
from segkit.models import build
from segkit.typing import Grid, Prompts


def encoders(sizes: SamSizes, side: int, seconds: float) -> Iterator[dict[str, object]]:
    """Official eager encoder, our loop eager, our loop with fused attention."""
    modules = SamModules(sizes).eval()
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    grid = Grid((1, side, side))
    official = measure(lambda: modules.image_encoder(image), seconds=seconds)
    yield _row(f"{sizes.name} encode {side}", "official eager", official.median_ms, 1.0)
    for attention in ("eager", "sdpa"):
        backbone = SamBackbone(modules.image_encoder, sizes, Adapter, attention=attention).eval()
        ours = measure(lambda backbone=backbone: backbone(image, grid), seconds=seconds)
        ratio = official.median_ms / ours.median_ms
        yield _row(f"{sizes.name} encode {side}", f"segkit {attention}", ours.median_ms, ratio)


def clicks(seconds: float) -> Iterator[dict[str, object]]:
    """First and further click of `nano` at its own size."""
    segmenter = build.nano().eval()
    image = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    click = Prompts(torch.tensor([[[0.0, 100.0, 120.0]]]), torch.tensor([[1]]))
    features = segmenter.encode(image)
    first = measure(lambda: segmenter.decode(segmenter.encode(image), click), seconds=seconds)
    further = measure(lambda: segmenter.decode(features, click), seconds=seconds)
    yield _row("nano encode + click 256", "segkit sdpa", first.median_ms, None)
    yield _row("nano further click 256", "segkit sdpa", further.median_ms, None)


def _row(what: str, who: str, median_ms: float, ratio: float | None) -> dict[str, object]:
    return {"case": what, "implementation": who, "median ms": median_ms, "times faster": ratio}


@torch.inference_mode()
def main() -> None:
    """Measure and write `results/encode.*`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="also ViT-B at 1024 x 1024")
    args = parser.parse_args()
    rows = [*encoders(NANO, 256, 3.0), *clicks(3.0), *encoders(VIT_B, 512, 10.0)]
    if args.full:
        rows += encoders(VIT_B, 1024, 30.0)
    print(table.write("encode", "Encoding and clicking on the CPU", rows).read_text())


if __name__ == "__main__":
    main()
