from dataclasses import replace

import pytest
import torch

from segkit.errors import InputError
from segkit.text.small import SmallSizes, build_small


@torch.no_grad()
def test_features_are_unit_vectors_and_scores_their_cosines(encoder):
    images = torch.rand(2, 3, 32, 32)
    found = encoder.encode_image(encoder.pixels(images))
    texts = encoder.encode_text(["bright ring", "dark lesion", "long"])
    assert torch.allclose(found.norm(dim=1), torch.ones(2))
    assert torch.allclose(texts.norm(dim=1), torch.ones(3))
    assert torch.allclose(encoder(images, ["bright ring", "dark lesion", "long"]), found @ texts.T)


@torch.no_grad()
def test_wordings_are_averaged(encoder):
    one, two = encoder.encode_text(["bright ring", "two ring"])
    mean = encoder.encode_ensemble(["bright ring", "two ring"])
    assert torch.allclose(mean, torch.nn.functional.normalize(one + two, dim=0), atol=1e-6)
    assert torch.allclose(encoder.encode_ensemble(["bright ring"]), one, atol=1e-6)


def test_images_of_any_size_become_the_square_input(encoder):
    pixels = encoder.pixels(torch.full((1, 3, 20, 50), 0.5))
    assert pixels.shape == (1, 3, 32, 32)
    assert torch.allclose(pixels, torch.zeros(1), atol=1e-4)  # flat images stay flat


def test_channels_are_standardised_or_normalised():
    images = torch.rand(1, 3, 32, 32) * torch.tensor([1.0, 0.5, 0.1])[:, None, None]
    sizes = SmallSizes(image_size=32, width=32, heads=2, depth=1, text_width=32, text_depth=1)
    pixels = build_small(sizes, ("ring",)).pixels(images)
    assert torch.allclose(pixels.mean((2, 3)), torch.zeros(1, 3), atol=1e-5)
    assert torch.allclose(pixels.std((2, 3)), torch.ones(1, 3), atol=1e-5)
    fixed = build_small(replace(sizes, standardise=False), ("ring",)).pixels(images)
    assert torch.allclose(fixed, (images - 0.5) / 0.25, atol=1e-6)


@pytest.mark.parametrize("texts", [[], [" "]])
def test_no_words_are_refused(encoder, texts):
    with pytest.raises(InputError, match="texts must not be empty"):
        encoder.encode_text(texts)
