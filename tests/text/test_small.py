import torch

from segkit.text.small import SmallSizes, build_small

SIZES = SmallSizes(image_size=16, width=32, heads=2, depth=1, features=8)


def test_the_seed_decides_the_weights():
    first, second, other = (build_small(SIZES, ("ring",), seed=seed) for seed in (1, 1, 2))
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name]), name
    assert not torch.equal(first.model.visual.proj, other.model.visual.proj)


def test_building_leaves_the_random_state_alone():
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    build_small(SIZES, ("ring",))
    assert torch.equal(torch.rand(1), wanted)


def test_settings_of_the_saliency_travel_with_the_model():
    encoder = build_small(SIZES, ("ring",), saliency={"layer": 0, "beta": 0.5})
    assert (encoder.spec.saliency.layer, encoder.spec.saliency.beta) == (0, 0.5)
