"""Masks of the official SAM 2 predictor (package 1.1.0) on a tiny model, frame by frame.

`python -m tools.parity.sam2_golden` wrote `sam2_tracker.json`, with the official package, from the
weights and pictures that this test makes too. Per frame and object: pixels inside, the mean logit,
and the logits of three pixels.
"""

import json
from pathlib import Path

import pytest
import torch

from segkit.models.tracker import Tracker
from tools.parity.sam2_golden import CASES, digest, pictures, tracker
from tools.parity.sam2_video import run_ours

GOLDEN = json.loads(Path(__file__).with_name("sam2_tracker.json").read_text())
TOLERANCE = 1e-5  # relative to the largest logit, as in the parity table


@pytest.fixture(scope="module")
def ours() -> Tracker:
    return tracker()


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_every_frame_of_the_official_tracker(ours: Tracker, case) -> None:
    golden = GOLDEN[case.name]
    bias = ours.decoder.module.pred_obj_score_head.layers[-1].bias
    with torch.no_grad():
        bias.sub_(golden["score_shift"])
    try:
        found = digest(run_ours(ours, pictures(), case))
    finally:
        with torch.no_grad():
            bias.add_(golden["score_shift"])
    assert list(found) == list(golden["frames"])
    wanted = torch.tensor(list(golden["frames"].values()))
    got = torch.tensor(list(found.values()))
    seen = wanted[..., 1] > -1000
    assert torch.equal(seen, got[..., 1] > -1000), "visible on different frames"
    assert torch.equal(got[..., 0], wanted[..., 0]), "areas differ"
    largest = wanted[seen][:, 1:].abs().max()
    assert (got - wanted)[seen][:, 1:].abs().max() <= TOLERANCE * largest


def test_the_cases_tell_something() -> None:
    for case in CASES:
        rows = torch.tensor(list(GOLDEN[case.name]["frames"].values()))
        assert len(rows) == 18
        assert rows[..., 0].max() > 0
        assert len(rows[..., 2].unique()) > 10
    absent = torch.tensor(list(GOLDEN["some frames without the object"]["frames"].values()))
    assert 0 < (absent[..., 1] < -1000).float().mean() < 1
