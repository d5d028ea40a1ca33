"""Rows CK1 to CK4: one click on an encoded image, ViT-B, random weights.

The peers are the official `SamPredictor`, and `SAM2ImagePredictor` of an installed `sam2` beside
our SAM 2.1 B+; both return full-size masks in host memory, as ours does.
"""

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu import Row
from benchmarks.gpu_encoders import SAM2, sam2_pair
from benchmarks.gpu_race import Bench, Call, Race, run
from segkit.models import Segmenter, build
from segkit.predictors import ImagePredictor
from segkit.typing import Prompts

OFFICIAL = "official SAM2ImagePredictor"


def decoder(bench: Bench) -> Iterator[Row]:
    """CK1: the decoder alone, in a CUDA graph and launched kernel by kernel."""
    model = _sam(bench)
    side = model.spec.image_size
    pixels = torch.as_tensor(_picture(side)).permute(2, 0, 1)[None].float() / 255
    features = model.encode(pixels.to(bench.device))
    click = Prompts(
        torch.tensor([[[0.0, 0.4 * side, 0.6 * side]]], device=bench.device),
        torch.ones(1, 1, dtype=torch.long, device=bench.device),
    )

    def eager() -> Tensor:
        with bench.low():
            return model.decode(features, click).logits

    calls: dict[str, Call] = {
        "segkit": _graphed(eager, bench),
        "segkit, kernel by kernel": lambda _: eager(),
        "segkit float32": lambda _: model.decode(features, click).logits,
    }
    want = model.decode(features, click).logits
    yield from run(Race("CK1", "decoder, one click", calls, want, "<= 0.5 ms", unit="1/s"), bench)


def click(bench: Bench) -> Iterator[Row]:
    """CK2, CK3: from a click to full-size masks in host memory, beside `SamPredictor`."""
    from segment_anything import SamPredictor
    from segment_anything.modeling import Sam

    model = _sam(bench, side=None if bench.is_dry else 512)
    ours, side = _opened(bench, model), model.spec.image_size
    parts: tuple[Any, ...] = (
        model.backbone.encoder, model.prompt_encoder.module, model.decoder.module
    )  # fmt: skip
    official = SamPredictor(Sam(*parts).eval())
    official.features, official.is_image_set = ours.get_image_embedding(), True
    official.original_size = official.input_size = (side, side)
    calls = {
        "segkit": _click(ours, side),
        "official SamPredictor (CK3)": _click(official, side),
    }
    target = "p50 <= 1.0 ms, p99 <= 2 x p50, >= 6x official (CK3)"
    what, want = f"click to mask, ViT-B @{side}", calls["official SamPredictor (CK3)"](0)
    yield from run(Race("CK2", what, calls, want, target, unit="1/s", limit=1e-3), bench)


def sam2_click(bench: Bench) -> Iterator[Row]:
    """CK4: the same on SAM 2.1 B+ beside `SAM2ImagePredictor`, each with its own encoding."""
    model, _ = sam2_pair(bench, "sam2_base_plus")
    ours, side = _opened(bench, model), model.spec.image_size
    calls, absent = {"segkit": _click(ours, side)}, {OFFICIAL: "the package sam2 is not installed"}
    if importlib.util.find_spec("sam2") is not None and not bench.is_dry:
        calls[OFFICIAL], absent = _click(_official(bench, model), side), {}
    want = calls["segkit"](0)
    what = f"click to mask, {model.recipe.backbone.name if model.recipe else 'SAM 2'} @{side}"
    race = Race("CK4", what, calls, want, ">= 3x official", unit="1/s", limit=1e-2, absent=absent)
    yield from run(race, bench)


@torch.inference_mode()
def all_rows(bench: Bench, only: str = "") -> Iterator[Row]:
    """The rows of this page whose name starts with `only`."""
    for row, make in {"CK1": decoder, "CK2": click, "CK4": sam2_click}.items():
        if row.startswith(only):
            yield from make(bench)


def _sam(bench: Bench, side: int | None = None) -> Segmenter:
    builder = build.sam_tiny if bench.is_dry else build.sam_vit_b
    size = {} if side is None else {"image_size": side}
    return builder(checkpoint=None if bench.is_dry else "random", **size).eval().to(bench.device)


def _picture(side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)


def _opened(bench: Bench, model: Segmenter) -> ImagePredictor:
    predictor = ImagePredictor(model, device=bench.device.type)
    predictor.set_image(_picture(model.spec.image_size))
    return predictor


def _click(predictor: Any, side: int) -> Call:
    """One call with the signature that both predictors have; its low-resolution logits."""
    point, label = np.array([[0.6 * side, 0.4 * side]]), np.array([1])
    return lambda _: torch.as_tensor(predictor.predict(point, label)[2])


def _graphed(call: Callable[[], Tensor], bench: Bench) -> Call:
    """Replay of a captured call; without a device the call itself."""
    if bench.device.type != "cuda":
        return lambda _: call()
    aside = torch.cuda.Stream()
    with torch.cuda.stream(aside):
        for _ in range(3):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = call()

    def replay(_: int) -> Tensor:
        graph.replay()
        return made

    return replay


def _official(bench: Bench, model: Segmenter) -> Any:
    """The official predictor on the weights of ours, with the image encoded."""
    from sam2.build_sam import build_sam2
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    torch.manual_seed(0)  # as for ours in `sam2_pair`
    predictor = SAM2ImagePredictor(build_sam2(SAM2["sam2_base_plus"], None, device="cpu"))
    predictor.model.eval().to(bench.device)
    predictor.set_image(_picture(model.spec.image_size))
    return predictor
