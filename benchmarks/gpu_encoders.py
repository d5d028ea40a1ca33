"""Rows EN1 to EN8: encoders with random weights, which no time depends on, in bf16.

SAM: beside the official module in float32 and in bf16, and segment-anything-fast where SAM_FAST
names a checkout (EN7). SAM 2.1: beside itself in float32, and the official encoder where the
package `sam2` is installed. All contenders of a row have the same weights.
"""

import copy
import importlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu import Row
from benchmarks.gpu_race import Bench, Call, Race, run
from segkit.adapters.base import Adapter
from segkit.backbones.sam import SamBackbone
from segkit.backbones.sam_modules import TINY, VIT_B, VIT_H, SamModules, SamSizes
from segkit.models import Segmenter, build
from segkit.typing import Grid, Prompts

SAM2 = {
    "sam2_base_plus": "configs/sam2.1/sam2.1_hiera_b+.yaml",
    "sam2_large": "configs/sam2.1/sam2.1_hiera_l.yaml",
    "sam2_tiny": "configs/sam2.1/sam2.1_hiera_t.yaml",
}
FAST = "segment-anything-fast (EN7)"


def sam(bench: Bench, row: str, sizes: SamSizes, target: str) -> Iterator[Row]:
    """Our loop beside the official module (EN1, EN2; the ratio to its float32 row is EN6)."""
    sizes = TINY if bench.is_dry else sizes
    images = _images(bench, sizes.image_size)
    official = SamModules(sizes).eval().to(bench.device).image_encoder
    low = copy.deepcopy(official).to(bench.dtype)
    ours = SamBackbone(copy.deepcopy(low), sizes, Adapter).eval()
    grid = Grid((1, *images[0].shape[-2:]))
    normal = [SamBackbone(official, sizes, Adapter).normalise(one) for one in images]
    given, rounded = ([one.to(bench.dtype) for one in each] for each in (images, normal))
    fast, absent = _fast(bench, sizes, official, rounded)
    calls: dict[str, Call] = {
        "segkit": lambda turn: ours(given[turn % 2], grid).levels[-1],
        "official float32": lambda turn: official(normal[turn % 2]),
        "official in the same type": lambda turn: low(rounded[turn % 2]),
    }
    what = f"{sizes.name}, batch {len(images[0])} @{sizes.image_size}"
    want = official(normal[0])
    yield from run(
        Race(row, what, calls | fast, want, target, len(images[0]), absent=absent), bench
    )


def sam2(bench: Bench, row: str, name: str, target: str) -> Iterator[Row]:
    """The trunk and neck of SAM 2.1 beside themselves in float32 and the official package."""
    model, official = sam2_pair(bench, name)
    low = copy.deepcopy(model).to(bench.dtype)
    images = _images(bench, model.spec.image_size)
    given = [one.to(bench.dtype) for one in images]
    grid = Grid((1, *images[0].shape[-2:]))
    calls: dict[str, Call] = {
        "segkit": lambda turn: low.backbone(given[turn % 2], grid).levels[-1],
        "segkit float32": lambda turn: model.backbone(images[turn % 2], grid).levels[-1],
    }
    absent = {"official float32": "the package sam2 is not installed"}
    if official is not None:
        normal = [model.backbone.normalise(one) for one in images]  # type: ignore[operator]
        calls["official float32"] = lambda turn: official(normal[turn % 2])["vision_features"]
        absent = {}
    what = f"{name}, batch {len(images[0])} @{model.spec.image_size}"
    want = model.backbone(images[0], grid).levels[-1]
    yield from run(Race(row, what, calls, want, target, len(images[0]), absent=absent), bench)


def masks(bench: Bench) -> Iterator[Row]:
    """EN8: masks of nano in low precision against float32, a box per picture."""
    model = build.nano().eval().to(bench.device)
    least = min(_agreement(bench, model, step) for step in range(2 if bench.is_dry else 32))
    yield {
        "row": "EN8", "what": f"nano in {bench.dtype}, least of all pictures", "rate": least,
        "contender": "segkit", "unit": "IoU", "target": ">= .995",
    }  # fmt: skip


def _agreement(bench: Bench, model: Segmenter, step: int) -> float:
    """Intersection over union of the masks that both draw of a disk in noise."""
    side = model.spec.image_size
    axis = torch.arange(side)
    x, y, radius = 0.3 * side + 2 * step, 0.6 * side - step, 0.12 * side + step
    inside = (axis[:, None] - y) ** 2 + (axis[None] - x) ** 2 < radius**2
    noise = torch.rand(side, side, generator=torch.Generator().manual_seed(step))
    image = (0.6 * inside + 0.3 * noise).expand(1, 3, side, side).to(model.device)
    corners = [[0.0, y - radius, x - radius], [0.0, y + radius, x + radius]]
    labels = torch.tensor([[2, 3]], device=model.device)
    box = Prompts(torch.tensor([corners], device=model.device), labels)
    want = model.decode(model.encode(image), box).logits > 0
    with bench.low():
        got = model.decode(model.encode(image), box).logits > 0
    return float((want & got).sum() / (want | got).sum().clamp(min=1))


@torch.inference_mode()
def all_rows(bench: Bench, only: str = "") -> Iterator[Row]:
    """The rows of this page whose name starts with `only`."""
    makers = {
        "EN1": partial(sam, bench, "EN1", VIT_H, ">= 70 img/s, >= 9x official float32 (EN6)"),
        "EN2": partial(sam, bench, "EN2", VIT_B, ">= 420 img/s, >= 1.15x fast (EN7)"),
        "EN3": partial(sam2, bench, "EN3", "sam2_base_plus", ">= 600 img/s"),
        "EN4": partial(sam2, bench, "EN4", "sam2_large", ">= 220 img/s"),
        "EN5": partial(sam2, bench, "EN5", "sam2_tiny", ">= 1,200 img/s"),
        "EN8": partial(masks, bench),
    }
    for row, make in makers.items():
        if row.startswith(only):
            yield from make()


def _images(bench: Bench, side: int) -> list[Tensor]:
    """Two batches, which are more than the cache holds."""
    shape = (2 if bench.is_dry else 8, 3, side, side)
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(shape, generator=generator).to(bench.device) for _ in range(2)]


def _fast(
    bench: Bench, sizes: SamSizes, official: nn.Module, images: list[Tensor]
) -> tuple[dict[str, Call], dict[str, str]]:
    """segment-anything-fast with the weights of the official encoder; or why it is not here."""
    if "SAM_FAST" not in os.environ:
        return {}, {FAST: "SAM_FAST names no checkout"}
    try:
        sys.path.insert(0, os.environ["SAM_FAST"])
        package: Any = importlib.import_module("segment_anything_fast")
        encoder = package.sam_model_registry[sizes.name.removeprefix("sam_")]().image_encoder
        encoder.load_state_dict(official.state_dict())
        best = torch.compile(encoder.eval().to(bench.device, bench.dtype), mode="max-autotune")
    except Exception as reason:  # a checkout that does not import is a row of the table
        return {}, {FAST: f"{type(reason).__name__}: {str(reason)[:120]}"}
    return {FAST: lambda turn: best(images[turn % 2])}, {}


def sam2_pair(bench: Bench, name: str) -> tuple[Segmenter, nn.Module | None]:
    """Our model, and the official encoder with the same weights where its package is."""
    if bench.is_dry or importlib.util.find_spec("sam2") is None:
        builder = build.sam2_test if bench.is_dry else getattr(build, name)
        return builder(checkpoint=None if bench.is_dry else "random").eval().to(bench.device), None
    from sam2.build_sam import build_sam2

    torch.manual_seed(0)
    official = build_sam2(SAM2[name], None, device="cpu").eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sam2.pt"
        torch.save({"model": official.state_dict()}, path)
        model = getattr(build, name)(checkpoint=path).eval()
    return model.to(bench.device), official.image_encoder.to(bench.device)
