"""Write down what the official SAM 2 predictor tracks with a tiny model of known weights.

The numbers go to `tests/golden/sam2_tracker.json`; the tests compare our tracker with them, without
the official package. To write them again (see `tools/parity/sam2_video.py` for ORACLE):

    PYTHONPATH=ORACLE python -m tools.parity.sam2_golden
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import segkit.torchvision_compat  # noqa: F401 (makes torchvision importable beside a CPU torch)
from segkit.backbones.sam2_checkpoints import to_official
from segkit.backbones.sam2_modules import SAM2_TEST, Sam2Modules
from segkit.memory import MemoryBank, Sam2Memory
from segkit.models.build_sam2 import Sam2Builder, memory_sizes
from segkit.models.tracker import ObjectPrompt, Tracker
from tools.parity.sam2_video import CONFIGS, Case, Mark, prepared, prompt_of, run_official

GOLDEN = Path(__file__).parents[2] / "tests" / "golden" / "sam2_tracker.json"
SIZE, FRAMES = 64, 18  # as many frames as pointers reach back, and more
SIZES = replace(SAM2_TEST, decoder_heads=8, decoder_mlp=2048)  # those two are fixed officially
_OVERRIDES = {
    "image_size": SIZE,
    "image_encoder.trunk.embed_dim": 32,
    "image_encoder.trunk.stages": "[1,1,2,1]",
    "image_encoder.trunk.global_att_blocks": "[3]",
    "image_encoder.trunk.window_spec": "[4,4,4,2]",
    "image_encoder.trunk.window_pos_embed_bkg_spatial_size": "[3,3]",
    "image_encoder.neck.d_model": 32,
    "image_encoder.neck.position_encoding.num_pos_feats": 32,
    "image_encoder.neck.backbone_channel_list": "[256,128,64,32]",
    "memory_attention.d_model": 32,
    "memory_attention.num_layers": 2,
    "memory_attention.layer.d_model": 32,
    "memory_attention.layer.dim_feedforward": 64,
    "memory_attention.layer.self_attention.embedding_dim": 32,
    "memory_attention.layer.self_attention.feat_sizes": "[4,4]",
    "memory_attention.layer.cross_attention.embedding_dim": 32,
    "memory_attention.layer.cross_attention.feat_sizes": "[4,4]",
    "memory_attention.layer.cross_attention.kv_in_dim": 16,
    "memory_encoder.out_dim": 16,
    "memory_encoder.in_dim": 32,
    "memory_encoder.position_encoding.num_pos_feats": 16,
    "memory_encoder.mask_downsampler.embed_dim": 32,
    "memory_encoder.fuser.layer.dim": 32,
}


def _disk(x: float, y: float, radius: float) -> torch.Tensor:
    axis = torch.arange(SIZE) + 0.5
    return (axis[:, None] - y) ** 2 + (axis[None] - x) ** 2 < radius**2


_A = Mark(1, 0, ((20.0, 30.0),), (1,))
_B = Mark(2, 0, ((30.0, 12.0), (55.0, 40.0)), (2, 3))
CASES = (
    Case("a click and a box", (_A, _B)),
    Case("objects at frames 0 and 5", (_A, replace(_B, frame=5))),
    Case("an object prompted twice", (_A, replace(_A, frame=7))),
    Case("a mask", (Mark(1, 0, mask=_disk(24, 30, 11)),)),
    Case("a second click", (_A, Mark(1, 0, ((45.0, 50.0),), (0,)))),
    Case("backwards", (replace(_A, frame=FRAMES - 1),), reverse=True),
    Case("a correction and a second pass", (_A,), (Mark(1, 9, ((45.0, 50.0),), (1,)),)),
    Case("some frames without the object", (_A, _B), vanish=0.4),
)


def pictures() -> torch.Tensor:
    """Waves that drift, in [0, 1]."""
    row, column = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    frames = []
    for t in range(FRAMES):
        phase = (row.double() + 2 * t) / 9, (column.double() - t) / 7
        waves = [torch.sin(phase[0] + k) * torch.cos((1 + k) * phase[1]) for k in range(3)]
        frames.append(torch.stack(waves))
    return (0.5 + 0.5 * torch.stack(frames)).float()


def weights() -> dict[str, torch.Tensor]:
    """Weights under official names from a generator whose numbers never change.

    Matrices are scaled by their inputs, norms and layer scales are near 1, everything else is
    small.
    """
    names = {
        **to_official(Sam2Modules(SIZES).state_dict()),
        **Sam2Memory(memory_sizes(SIZES)).state_dict(),
    }
    numbers, found = np.random.RandomState(5), {}
    for name in sorted(names):
        shape = tuple(names[name].shape)
        tensor = torch.from_numpy(numbers.standard_normal(shape))
        if len(shape) == 1:
            tensor = 0.1 * tensor + name.endswith(("weight", "gamma"))
        elif "pos_embed" not in name and "gaussian" not in name:
            tensor = tensor * (shape[0] / tensor.numel()) ** 0.5
        found[name] = tensor.float()
    return found


def tracker() -> Tracker:
    """Our tracker with these weights, through a file of the official kind."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sam2.pt"
        torch.save({"model": weights()}, path)
        return Sam2Builder(SIZES).tracker(checkpoint=path).eval()


def digest(found: Mapping[int, torch.Tensor]) -> dict[str, list[list[float]]]:
    """Per frame and object: pixels inside, mean logit, and the logits of three pixels."""
    shown: dict[str, list[list[float]]] = {}
    for frame in sorted(found):
        rows = []
        for logits in found[frame]:
            flat = logits.double().flatten()
            places = (0, len(flat) // 2 + 5, len(flat) - 3)
            rows.append(
                [int((flat > 0).sum()), float(flat.mean()), *(float(flat[p]) for p in places)]
            )
        shown[str(frame)] = [[float(f"{value:.7g}") for value in row] for row in rows]
    return shown


def _official() -> Any:
    from sam2.build_sam import build_sam2_video_predictor
    from sam2.modeling.sam2_utils import MLP

    extra = [f"++model.{key}={value}" for key, value in _OVERRIDES.items()]
    predictor = build_sam2_video_predictor(
        CONFIGS["2.1"], None, device="cpu", hydra_overrides_extra=extra
    )
    # the one width that is written out there
    head = MLP(SIZES.out_dim, SIZES.out_dim, 4, 3, sigmoid_output=True)
    predictor.sam_mask_decoder.iou_prediction_head = head
    predictor.load_state_dict(weights(), strict=True)
    return prepared(predictor)


def score_shift(tracker: Tracker, images: torch.Tensor, share: float) -> float:
    """What to take off object scores so that this share of a plain run falls below 0."""
    bank, scores = MemoryBank(), []
    prompts: dict[int, ObjectPrompt] | None = {
        mark.object: prompt_of([mark], None, sees_memory=False) for mark in (_A, _B)
    }
    with torch.inference_mode():
        for image in images:
            found, bank = tracker.step(tracker.encode(image[None]), prompts, bank)
            scores.append(found.score)
            prompts = None
    every = torch.cat(scores)
    return round(float(every.quantile(share)) if share else float(every.min()) - 5.0, 3)


def main() -> None:
    """Run all cases with the official predictor and write the file."""
    predictor, images, own = _official(), pictures(), tracker()
    head = predictor.sam_mask_decoder.pred_obj_score_head.layers[-1]
    found: dict[str, Any] = {}
    for case in CASES:
        shift = score_shift(own, images, case.vanish)
        head.bias.data.sub_(shift)
        found[case.name] = {
            "score_shift": shift,
            "frames": digest(run_official(predictor, images, case)),
        }
        head.bias.data.add_(shift)
        print(case.name, shift, [row[0][:2] for row in found[case.name]["frames"].values()])
    GOLDEN.write_text(json.dumps(found, separators=(",", ":")).replace('],"', '],\n"') + "\n")


if __name__ == "__main__":
    main()
