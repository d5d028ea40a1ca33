"""DD-SAM2: a training window as the released code follows it, on a tiny model of known weights.

The harness compares logits and gradients (`python -m tools.parity.harness dd_sam2`); the official
sam2 package stands in for the copy of it in the checkout, see `tools/parity/sam2_video.py` for
ORACLE. The numbers in `tests/golden/dd_sam2_training.json` are written by

    DD_SAM2=CHECKOUT PYTHONPATH=ORACLE python -m tools.parity.dd_sam2_training
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segkit.memory import MemoryBank
from segkit.models.dd_sam2_tracker import DDSam2Tracker
from segkit.models.segmenter import upsample
from segkit.models.tracker import ObjectPrompt, Tracker
from tools.parity.harness import Case, import_file
from tools.parity.sam2_golden import SIZE, digest, pictures, tracker

GOLDEN = Path(__file__).parents[2] / "tests" / "golden" / "dd_sam2_training.json"
LENGTH = 8
STARTS = (0, 9)
"""First frames of the two windows."""
BOXES = ((12.0, 18.0, 40.0, 44.0), (30.0, 12.0, 55.0, 40.0))
"""A box (x, y, x, y) on the first frame of each window."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def windows() -> Tensor:
    """Two windows of drifting waves, [2 t 3 h w] in [0, 1]."""
    return torch.stack([pictures()[start : start + LENGTH] for start in STARTS])


def shift_scores(trackers: Sequence[Any], shift: float) -> None:
    """Take a number off the scores of visibility, so that some objects are not seen."""
    with torch.no_grad():
        for one in trackers:
            one.pred_obj_score_head.layers[-1].bias.sub_(shift)


def follow(ours: Tracker, clips: Tensor) -> Tensor:
    """Logits [clips t h w] at the size of the frames."""
    length = clips.shape[1]
    released = DDSam2Tracker(ours.segmenter, ours.memory, frames=length)
    features = [released.encode(clips[:, t]) for t in range(length)]
    prompts: dict[int, ObjectPrompt] | None = {
        row: ObjectPrompt(torch.tensor([[0.0, y0, x0], [0.0, y1, x1]]), torch.tensor([2, 3]))
        for row, (x0, y0, x1, y1) in enumerate(BOXES)
    }
    bank = MemoryBank(rounds=False).add(range(len(clips)), range(len(clips)))
    logits = []
    for frame in features:
        found, bank = released.step(frame, prompts, bank)
        prompts = None
        logits.append(upsample(found.raw, (clips.shape[-2], clips.shape[-1]))[:, 0])
    return torch.stack(logits, dim=1)


def training_mode(ours: Tracker) -> Tracker:
    """As in training, without dropout, which would draw numbers of its own."""
    ours.train()
    ours.memory.eval()
    return ours


def released(root: Path) -> Any:
    """The trainer of the checkout around the official predictor."""
    from tools.parity.sam2_golden import _official

    module = import_file(root / "sam2" / "sam2_video_trainer.py", "dd_sam2_trainer")
    trainer = module.SAM2VideoTrainer.__new__(module.SAM2VideoTrainer)
    torch.nn.Module.__init__(trainer)
    # its constructor builds a released size from a configuration of its own
    trainer.model = _official().train()
    trainer.model.memory_attention.eval()
    trainer.num_feature_levels, trainer.memory_size = 3, 7
    trainer._transforms = module.SAM2Transforms(SIZE, 0.5)
    trainer._bb_feat_sizes = [(SIZE // n, SIZE // n) for n in (4, 8, 16)]
    trainer.sam_point_coords = torch.zeros(1, 1, 2)
    trainer.sam_point_labels = -torch.ones(1, 1, dtype=torch.int32)
    trainer.mask_threshold, trainer.use_mask_threshold = 0.5, False
    trainer.init_state()
    return trainer


def released_logits(trainer: Any, clips: Tensor) -> Tensor:
    """Logits [clips t h w] of the released code."""
    mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (_MEAN, _STD))
    _, logits, _ = trainer((clips - mean) / std, torch.tensor(BOXES))
    return torch.cat(logits, dim=1)


def case(root: Path) -> Case:
    """The comparison for the harness; the gradient goes to the frames, through all modules."""
    trainer, ours = released(root), training_mode(tracker())
    return Case(
        "training window with memory",
        lambda clips: released_logits(trainer, clips),
        lambda clips: follow(ours, clips),
        [windows()],
    )


def main() -> None:
    """Run the released code and write what it finds, visible or partly not."""
    trainer = released(Path(os.environ["DD_SAM2"]))
    found: dict[str, Any] = {}
    for name, shift in (("visible", 0.0), ("partly not visible", 0.35)):
        shift_scores([trainer.model.sam_mask_decoder], shift)
        with torch.no_grad():
            logits = released_logits(trainer, windows())
        shift_scores([trainer.model.sam_mask_decoder], -shift)
        frames = digest({t: logits[:, t] for t in range(LENGTH)})
        found[name] = {"score_shift": shift, "frames": frames}
        print(name, [[row[:2] for row in rows] for rows in frames.values()])
    GOLDEN.write_text(json.dumps(found, separators=(",", ":")).replace('],"', '],\n"') + "\n")


if __name__ == "__main__":
    main()
