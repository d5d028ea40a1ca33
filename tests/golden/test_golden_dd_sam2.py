"""Training windows of the released code of DD-SAM2 (d1634e2) on a tiny model, frame by frame.

`python -m tools.parity.dd_sam2_training` wrote `dd_sam2_training.json` with a checkout and the
official sam2 package, from the weights and pictures that this test makes too. Per frame and clip:
pixels inside, the mean logit, and the logits of three pixels.
"""

import json
from pathlib import Path

import pytest
import torch

from segkit.models.tracker import Tracker
from tools.parity import dd_sam2_training as released
from tools.parity.sam2_golden import digest, tracker

GOLDEN = json.loads(Path(__file__).with_name("dd_sam2_training.json").read_text())
TOLERANCE = 1e-5  # relative to the largest logit, as in the parity table


def difference(found: torch.Tensor, golden: dict) -> torch.Tensor:
    """Relative to the largest number of the golden, by frame."""
    digested = digest({t: found[:, t] for t in range(found.shape[1])})
    assert list(digested) == list(golden["frames"])
    got = torch.tensor(list(digested.values()))[..., 1:]
    wanted = torch.tensor(list(golden["frames"].values()))[..., 1:]
    return ((got - wanted).abs() / wanted.abs().max()).flatten(1).amax(1)


@pytest.mark.parametrize("name", list(GOLDEN))
def test_every_frame_of_the_released_training(name: str) -> None:
    ours = released.training_mode(tracker())
    released.shift_scores([ours.decoder.module], GOLDEN[name]["score_shift"])
    with torch.no_grad():
        found = released.follow(ours, released.windows())
    assert difference(found, GOLDEN[name]).max() <= TOLERANCE


def test_the_memory_of_inference_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The golden would notice: the marked frames agree, all others do not."""
    ours = released.training_mode(tracker())
    monkeypatch.setattr(
        released, "DDSam2Tracker", lambda segmenter, memory, **_: Tracker(segmenter, memory)
    )
    with torch.no_grad():
        found = released.follow(ours, released.windows())
    apart = difference(found, GOLDEN["visible"])
    assert apart[0] <= TOLERANCE
    assert apart[1:].min() > 0.01


def test_both_goldens_differ_where_objects_are_not_seen() -> None:
    one, other = (torch.tensor(list(GOLDEN[name]["frames"].values())) for name in GOLDEN)
    assert torch.equal(one[0], other[0])
    assert (one[1:] != other[1:]).any(dim=(1, 2)).all()
