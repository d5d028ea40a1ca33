import pytest
import torch

from segkit.errors import InputError
from segkit.text.small import SmallSizes, build_small
from segkit.text.training import ContrastiveTraining, Pairs, TrainingPlan

SIZES = SmallSizes(
    image_size=16, width=32, heads=2, depth=1, features=8, text_width=32, text_depth=1
)
WORDS = ("bright", "dark", "left", "right", "spot")
CAPTIONS = ("bright left spot", "bright right spot", "dark left spot", "dark right spot")


def draw(step):
    """Four pictures that differ as their captions do."""
    generator = torch.Generator().manual_seed(step)
    images = 0.5 + 0.05 * torch.randn(4, 3, 16, 16, generator=generator)
    for number, (tone, side) in enumerate([(0.4, 0), (0.4, 8), (-0.4, 0), (-0.4, 8)]):
        images[number, :, 4:12, side : side + 8] += tone
    return Pairs(images.clamp(0, 1), (CAPTIONS,))


def make(objective="dhn_nce", **values):
    encoder = build_small(SIZES, WORDS, seed=1)
    return ContrastiveTraining(
        encoder, TrainingPlan(objective, rate=1e-3, warmup=2, **values), draw
    )


@pytest.mark.parametrize("objective", ["dhn_nce", "info_nce"])
def test_training_brings_pairs_together(objective):
    training = make(objective)
    first = training.advance(0.0)["loss"]
    for step in range(80):
        last = training.advance(step / 80)["loss"]
    assert last < first - 0.3
    with torch.no_grad():
        scores = training.encoder(draw(99).images, list(CAPTIONS))
    assert scores.argmax(1).tolist() == [0, 1, 2, 3]


def test_resumed_equals_unbroken(tmp_path):
    unbroken = make()
    for step in range(4):
        unbroken.advance(step / 4)
    first = make()
    for step in range(2):
        first.advance(step / 4)
    torch.save(first.state(), tmp_path / "state.ckpt")
    second = make()
    second.resume(torch.load(tmp_path / "state.ckpt", weights_only=True))
    for step in range(2, 4):
        second.advance(step / 4)
    wanted = unbroken.encoder.state_dict()
    for name, weight in second.encoder.state_dict().items():
        assert torch.equal(weight, wanted[name]), name


def test_another_plan_is_refused():
    state = make().state()
    with pytest.raises(InputError, match="give the same options"):
        make(tau=0.1).resume(state)


def test_the_rate_warms_up_and_falls_to_its_floor():
    training = make(floor=0.5)
    full = training.plan.rate
    assert training.rate(0.0) == pytest.approx(full / 2)
    training.step = 10
    assert training.rate(0.0) == pytest.approx(full)
    assert training.rate(1.0) == pytest.approx(full / 2)


def test_bad_plans_are_refused():
    with pytest.raises(InputError, match="objective 'clip'"):
        TrainingPlan("clip")
    with pytest.raises(InputError, match="rate must be > 0"):
        TrainingPlan(rate=0)
