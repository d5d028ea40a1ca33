from dataclasses import replace

import pytest
import torch

from segkit.errors import DataWarning, InputError
from segkit.text.bottleneck import OPEN, capacity, layer_index, saliency
from segkit.text.settings import SaliencySettings

SETTINGS = SaliencySettings(layer=1, steps=3, copies=2)


@pytest.fixture(scope="module")
def pairs(encoder):
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    texts = encoder.encode_text(["bright ring", "dark lesion", "long", "two round", "ring"])
    return encoder.pixels(images), texts.detach()


def plain_loop(encoder, pixels, text, settings, *, before_last):
    """The released procedure for one pair, written out."""
    tower = encoder.tower
    with torch.no_grad():
        x = tower.run(tower.embed(pixels), 0, settings.layer + 1)
    alpha = torch.full_like(x, OPEN).requires_grad_()
    optimiser = torch.optim.Adam([alpha], lr=settings.rate)
    generator = torch.Generator().manual_seed(settings.seed)

    def divergence():
        gate = torch.sigmoid(alpha)
        variance = (1 - gate) ** 2
        return -0.5 * (1 + variance.log() - (gate * x) ** 2 - variance)

    for _ in range(settings.steps):
        optimiser.zero_grad()
        noise = torch.randn((settings.copies, *x.shape[1:]), generator=generator)
        gate = torch.sigmoid(alpha)
        kept = divergence()
        image = tower.head(
            tower.run(gate * x + (1 - gate) * noise, settings.layer + 1, len(tower.blocks))
        )
        fit = torch.nn.functional.cosine_similarity(image, text[None], dim=-1)
        (settings.beta * kept.mean() - fit.mean()).backward()
        optimiser.step()
    kept = kept if before_last else divergence()
    return kept.detach()[0, 1:].sum(-1).reshape(tower.grid)


@pytest.mark.parametrize("compat", [None, "authors"])
def test_equals_the_procedure_written_out(encoder, pairs, compat):
    pixels, texts = pairs
    found = saliency(encoder, pixels[:1], texts[:1], SETTINGS, compat=compat)
    wanted = plain_loop(encoder, pixels[:1], texts[0], SETTINGS, before_last=compat == "authors")
    assert found.shape == (1, 4, 4)
    assert torch.allclose(found[0], wanted, rtol=1e-4)
    encoder.zero_grad(set_to_none=True)


@pytest.mark.parametrize("noise", ["unit", "channel"])
def test_a_pair_does_not_depend_on_its_neighbours(encoder, pairs, noise):
    settings = replace(SETTINGS, noise=noise)
    together = saliency(encoder, *pairs, settings)
    alone = torch.cat(
        [saliency(encoder, pairs[0][n : n + 1], pairs[1][n : n + 1], settings) for n in range(5)]
    )
    assert torch.allclose(together, alone, rtol=1e-3)


def test_the_same_seed_gives_the_same_map(encoder, pairs):
    first, second = (saliency(encoder, *pairs, SETTINGS) for _ in range(2))
    assert torch.equal(first, second)
    other = saliency(encoder, *pairs, replace(SETTINGS, seed=1))
    assert not torch.equal(first, other)


def test_weights_get_no_gradient_and_do_not_change(encoder, pairs):
    before = {name: weight.clone() for name, weight in encoder.named_parameters()}
    saliency(encoder, *pairs, SETTINGS)
    for name, weight in encoder.named_parameters():
        assert weight.grad is None, name
        assert torch.equal(weight, before[name]), name


def test_words_change_the_map(encoder, pairs):
    pixels, texts = pairs
    same = pixels[:1].expand(2, -1, -1, -1)
    settings = replace(SETTINGS, steps=10, beta=0.01)
    first, second = saliency(encoder, same, texts[:2], settings)
    assert not torch.allclose(first, second, rtol=1e-3)


def test_channel_noise_does_not_see_the_scale_of_a_layer(encoder, pairs):
    """Codes are standardised: the maps of an image stay in the range of N(0, 1) activations."""
    settings = replace(SETTINGS, noise="channel", steps=1)
    maps = saliency(encoder, *pairs, settings, compat="authors")
    # before the first step every gate is open: the mean capacity follows from the second moment
    # of standardised codes alone
    gate = torch.sigmoid(torch.tensor(OPEN))
    fixed = 0.5 * ((1 - gate) ** 2 - 2 * (1 - gate).log() - 1)
    patches = 16
    wanted = 32 * (fixed + 0.5 * gate**2 * (patches - 1) / patches)
    assert torch.allclose(maps.mean((1, 2)), wanted.expand(5), rtol=1e-4)


def test_capacity_is_finite_however_far_a_gate_opens():
    alpha = torch.tensor([-200.0, 0.0, 5.0, 40.0, 200.0], requires_grad=True)
    values = capacity(alpha, torch.ones(5))
    values.sum().backward()
    assert torch.isfinite(values).all()
    assert torch.isfinite(alpha.grad).all()
    assert values[0].item() == pytest.approx(0, abs=1e-6)
    variance = torch.tensor(0.25)
    assert values[1].item() == pytest.approx(
        (-0.5 * (1 + variance.log() - 0.25 - variance)).item(), abs=1e-6
    )


def test_no_pairs_give_no_maps(encoder):
    assert saliency(encoder, torch.zeros(0, 3, 32, 32), torch.zeros(0, 16)).shape == (0, 4, 4)


def test_layers_count_from_both_ends(encoder):
    assert [layer_index(encoder, n) for n in (0, 2, -1, -3)] == [0, 2, 2, 0]
    with pytest.raises(InputError, match=r"3 blocks, got layer 3; choose -3 to 2"):
        layer_index(encoder, 3)


def test_unequal_numbers_are_refused(encoder, pairs):
    with pytest.raises(InputError, match="got 5 images and 2 texts"):
        saliency(encoder, pairs[0], pairs[1][:2])


def test_vvar_belongs_to_the_release(encoder, pairs):
    with pytest.raises(InputError, match="vvar has no effect"):
        saliency(encoder, *pairs, SETTINGS, vvar=0.1)
    with pytest.warns(DataWarning, match="ignored"):
        maps = saliency(encoder, *pairs, SETTINGS, vvar=0.1, compat="authors")
    assert torch.equal(maps, saliency(encoder, *pairs, SETTINGS, compat="authors"))
