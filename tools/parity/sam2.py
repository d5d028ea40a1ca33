"""Compare SAM 2's image half with the official package and with transformers, part by part.

All three get the same random weights, none of them zero. The oracles are never dependencies:

    export SAM2_BUILD_CUDA=0
    pip install --no-deps --no-build-isolation --target ORACLE sam2==1.1.0 iopath portalocker
    PYTHONPATH=ORACLE python -m tools.parity.sam2          # writes benchmarks/results/parity_sam2.*
    PYTHONPATH=ORACLE python -m tools.parity.sam2 --time   # and encode_sam2.*

PyPI's sam2 1.1.0 equals the official tree of December 2024 (commit 2b90b9f).
"""

import argparse
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import segkit.torchvision_compat  # noqa: F401 (before the oracles import torchvision)
from benchmarks.table import write
from segkit.backbones.checkpoints import write_safetensors
from segkit.backbones.sam2_checkpoints import HUB_FILE, from_hub, to_hub
from segkit.backbones.sam2_modules import SAM2_SIZES, Sam2Sizes
from segkit.decoders import Sam2MaskDecoder
from segkit.decoders.sam2_mask import without_memory
from segkit.models import build
from segkit.models.segmenter import Segmenter
from segkit.typing import Prompts, PromptTokens

LETTERS = {"tiny": "t", "small": "s", "base_plus": "b+", "large": "l"}
SIZES = {  # (height, width) by model
    "sam2_tiny": ((256, 256), (512, 512), (256, 384), (320, 224), (96, 96), (32, 64)),
    "sam2_0_tiny": ((256, 256),),
    "sam2_small": ((256, 256),),
    "sam2_base_plus": ((256, 256), (224, 320)),
    "sam2_large": ((256, 256),),
}
TIMED = (("sam2_tiny", 512), ("sam2_tiny", 1024), ("sam2_base_plus", 512))
TOLERANCE, FLOOR = 1e-5, 0.1
"""Largest difference allowed, relative to the largest value, but for values near zero."""

_TOKENS = re.compile(r"(_token|_tokens|_embed|_embeddings\.\d|_enc|_ptr|_spatial)(\.weight)?$")

Row = dict[str, object]
Size = tuple[int, int]


def official(name: str) -> Any:
    """Official model of a builder's name, with random weights."""
    from sam2.build_sam import build_sam2

    version = "" if "_0_" in name else ".1"
    letter = LETTERS[name.removeprefix("sam2_").removeprefix("0_")]
    config = f"configs/sam2{version}/sam2{version}_hiera_{letter}.yaml"
    model = build_sam2(config, None, device="cpu")
    randomise(model)
    return model


def randomise(module: torch.nn.Module) -> None:
    """Draw weights that leave no branch without effect."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in sorted(module.state_dict().items()):
            noise = torch.randn(tensor.shape, generator=generator)
            if tensor.ndim < 2:
                tensor.add_(0.05 * noise)
            elif "gaussian" in name:
                tensor.copy_(noise)
            elif _TOKENS.search(name):
                tensor.copy_(0.5 * noise)
            else:
                tensor.copy_(noise * tensor[0].numel() ** -0.5)


def transformers_model(sizes: Sam2Sizes, state: Mapping[str, Tensor]) -> Any:
    """Build transformers' video model with the same weights."""
    from transformers import Sam2VideoConfig, Sam2VideoModel

    heads = [sizes.heads * 2**stage for stage in range(4)]
    trunk = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": sizes.embed_dim,
        "num_attention_heads": sizes.heads,
        "blocks_per_stage": list(sizes.stages),
        "embed_dim_per_stage": list(sizes.widths),
        "num_attention_heads_per_stage": heads,
        "window_size_per_stage": list(sizes.windows),
        "window_positional_embedding_background_size": list(sizes.background),
        "global_attention_blocks": list(sizes.global_blocks),
    }
    config = Sam2VideoConfig(
        vision_config={
            "backbone_config": trunk,
            "backbone_channel_list": list(reversed(sizes.widths)),
        },
        enable_temporal_pos_encoding_for_object_pointers=sizes.pointer_positions,
        enable_occlusion_spatial_embedding=sizes.occlusion_embedding,
    )
    model = Sam2VideoModel(config)
    model.load_state_dict(to_hub(state), strict=True)
    return model.eval()


def prompts(size: Size) -> dict[str, Prompts]:
    """One object per batch: a click, two clicks, a box, a box with a click, a mask of a click."""
    h, w = size
    points = {
        "click": ([(0.3 * h, 0.6 * w)], [1]),
        "two clicks": ([(0.3 * h, 0.6 * w), (0.7 * h, 0.2 * w)], [1, 0]),
        "box": ([(0.2 * h, 0.1 * w), (0.8 * h, 0.7 * w)], [2, 3]),
        "box and click": ([(0.2 * h, 0.1 * w), (0.8 * h, 0.7 * w), (0.5 * h, 0.3 * w)], [2, 3, 1]),
    }
    found = {
        name: Prompts(torch.tensor([[(0.0, y, x) for y, x in where]]), torch.tensor([labels]))
        for name, (where, labels) in points.items()
    }
    mask = torch.randn(1, 1, h // 4, w // 4, generator=torch.Generator().manual_seed(3))
    click = found["click"]
    return {**found, "click and mask": Prompts(click.points, click.labels, 4 * mask)}


def compare_official(model: Any, mine: Segmenter, size: Size) -> Iterator[Row]:
    """Differences from the official modules."""
    image = picture(size)
    features = mine.encode(image)
    decoder = mine.decoder
    assert isinstance(decoder, Sam2MaskDecoder)
    out = model.forward_image(mine.backbone.normalise(image))  # type: ignore[operator]
    for level, (a, b) in enumerate(zip(features.levels, out["backbone_fpn"], strict=True)):
        yield row("official", f"level {level}", size, a, b)
    theirs = model.sam_prompt_encoder
    cells = (size[0] // 16, size[1] // 16)
    theirs.input_image_size, theirs.image_embedding_size = size, cells
    theirs.mask_input_size = (4 * cells[0], 4 * cells[1])
    coarse = out["backbone_fpn"][-1] + model.no_mem_embed.view(1, -1, 1, 1)
    for name, prompt in prompts(size).items():
        tokens = mine.prompt_encoder(prompt, size)
        marks = (prompt.points[..., [2, 1]], prompt.labels)
        sparse, dense = theirs(points=marks, boxes=None, masks=prompt.masks)
        codes = theirs.get_dense_pe()
        yield row("official", f"{name}: tokens", size, tokens.sparse, sparse)
        yield row("official", f"{name}: dense", size, tokens.dense, dense)
        yield row("official", f"{name}: positions", size, tokens.positions, codes)
        every = decoder.every_mask(without_memory(features, decoder.module.no_mem_embed), tokens)
        predicted = model.sam_mask_decoder.predict_masks(
            coarse, codes, sparse, dense, False, out["backbone_fpn"][:2]
        )
        pairs = zip(("masks", "IoU", "output tokens", "object score"), predicted, strict=True)
        found = (every.logits, every.iou, every.tokens, every.score)
        for (part, b), a in zip(pairs, found, strict=True):
            yield row("official", f"{name}: {part}", size, a, b)
        single = model.sam_mask_decoder(
            coarse, codes, sparse, dense, False, False, out["backbone_fpn"][:2]
        )[0]
        yield row(
            "official", f"{name}: single mask", size, decoder(features, tokens).logits, single
        )


def compare_transformers(model: Any, mine: Segmenter, size: Size) -> Iterator[Row]:
    """Differences from transformers' modules, for one click."""
    image = picture(size)
    features = mine.encode(image)
    decoder = mine.decoder
    assert isinstance(decoder, Sam2MaskDecoder)
    out = model.vision_encoder(mine.backbone.normalise(image))  # type: ignore[operator]
    fine, middle, coarse = out.fpn_hidden_states
    theirs = model.mask_decoder
    levels = [theirs.conv_s0(fine), theirs.conv_s1(middle), coarse]
    for level, (a, b) in enumerate(zip(features.levels, levels, strict=True)):
        yield row("transformers", f"level {level}", size, a, b)
    tokens: PromptTokens = mine.prompt_encoder(prompts(size)["click"], size)
    masks, iou, sam_tokens, score = theirs(
        coarse + model.no_memory_embedding.view(1, -1, 1, 1),
        tokens.positions,
        tokens.sparse[:, None],
        tokens.dense,
        multimask_output=True,
        high_resolution_features=levels[:2],
    )[:4]
    every = decoder.every_mask(without_memory(features, decoder.module.no_mem_embed), tokens)
    chosen = decoder.choose(every, multimask=True)
    yield row("transformers", "click: masks", size, chosen.logits, masks[:, 0])
    yield row("transformers", "click: IoU", size, chosen.iou, iou[:, 0])
    yield row("transformers", "click: output tokens", size, chosen.tokens, sam_tokens[:, 0])
    yield row("transformers", "click: object score", size, chosen.score, score[:, 0])


def picture(size: Size) -> Tensor:
    """Random image in [0, 1]."""
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(2))


def row(oracle: str, part: str, size: Size, found: Tensor, expected: Tensor) -> Row:
    """Largest difference, and the largest value it has to be seen against."""
    if found.shape != expected.shape:
        raise SystemExit(f"{part}: shape {tuple(found.shape)}, {oracle} has {expected.shape}")
    return {
        "oracle": oracle,
        "part": part,
        "size": f"{size[0]} x {size[1]}",
        "difference": float((found - expected).abs().max()),
        "largest value": float(expected.abs().max()),
    }


def merged(rows: list[Row]) -> list[Row]:
    """One row per model, oracle and part: the worst of all sizes and prompts."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for one in rows:
        part = str(one["part"]).rpartition(": ")[2]
        groups.setdefault((one["model"], one["oracle"], part), []).append(one)
    return [
        {
            "model": model,
            "oracle": oracle,
            "part": part,
            "sizes": len({one["size"] for one in group}),
            "difference": max(number(one, "difference") for one in group),
            "largest value": max(number(one, "largest value") for one in group),
        }
        for (model, oracle, part), group in groups.items()
    ]


def number(one: Row, column: str) -> float:
    """Value of a numeric column."""
    return float(str(one[column]))


def parity(folder: Path) -> list[Row]:
    """All comparisons of all models; our weights arrive through files of both layouts."""
    rows: list[Row] = []
    for name, sizes in SIZES.items():
        model = official(name)
        state = model.state_dict()
        torch.save({"model": state}, folder / "sam2.pt")
        mine = build.BUILDERS[name](checkpoint=folder / "sam2.pt").eval()
        write_safetensors(folder / HUB_FILE, {k: v.clone() for k, v in to_hub(state).items()})
        twin = build.BUILDERS[name](checkpoint=folder).eval()
        if any(
            not torch.equal(a, b)
            for a, b in zip(mine.state_dict().values(), twin.state_dict().values(), strict=True)
        ):
            raise SystemExit(f"{name}: file and hub folder give different weights")
        other = transformers_model(SAM2_SIZES[name], state)
        back = from_hub(other.state_dict(), "transformers")
        if back.keys() != state.keys() or any(not torch.equal(back[k], state[k]) for k in back):
            raise SystemExit(f"{name}: names do not survive the way to transformers and back")
        for size in sizes:
            for one in compare_official(model, mine, size):
                rows.append({"model": name, **one})
            for one in compare_transformers(other, mine, size):
                rows.append({"model": name, **one})
        print(f"{name}: compared at {len(sizes)} sizes", flush=True)
    return rows


def times(repeats: int) -> list[Row]:
    """Encoder time in seconds of one core, runs interleaved, least of all."""
    rows: list[Row] = []
    for name, side in TIMED:
        model, mine = official(name), build.BUILDERS[name](checkpoint="random").eval()
        image = picture((side, side))
        normal = mine.backbone.normalise(image)  # type: ignore[operator]
        runs: dict[str, Callable[[], object]] = {
            "official": lambda model=model, normal=normal: model.forward_image(normal),
            "segkit": lambda mine=mine, image=image: mine.encode(image),
        }
        least = dict.fromkeys(runs, float("inf"))
        for _ in range(repeats):
            for kind, run in runs.items():
                start = time.process_time()
                run()
                least[kind] = min(least[kind], time.process_time() - start)
        rows.append(
            {
                "model": name,
                "size": side,
                **{f"{kind} (s)": value for kind, value in least.items()},
                "fraction": least["segkit"] / least["official"],
            }
        )
        print(rows[-1], flush=True)
    return rows


@torch.inference_mode()
def main() -> None:
    """Write the tables; fails where a difference is larger than allowed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--time", action="store_true", help="time the encoders instead")
    parser.add_argument("--repeats", type=int, default=8)
    options = parser.parse_args()
    if options.time:
        torch.set_num_threads(1)
        title, note = (
            "SAM 2 encoder on a CPU",
            "Batch 1, fp32, CPU seconds of one thread, least of interleaved runs.",
        )
        print(write("encode_sam2", title, times(options.repeats), notes=note))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = parity(Path(folder))
    note = (
        "Random non-degenerate weights, fp32, largest absolute difference over all sizes and "
        f"prompts. Allowed: {TOLERANCE:g} of the largest value. Our weights come from an official "
        "file, and equal those from a hub folder; every name survives the way to transformers and "
        "back."
    )
    print(write("parity_sam2", "Parity of SAM 2's image half", merged(rows), notes=note))
    bad = [
        r
        for r in rows
        if number(r, "difference") > TOLERANCE * max(number(r, "largest value"), FLOOR)
    ]
    if bad:
        raise SystemExit(f"{len(bad)} differences are too large, the first: {bad[0]}")


if __name__ == "__main__":
    main()
