from functools import partial

import pytest
import torch
from torch import Tensor

from segkit.adapters import Adapter, Frequency
from segkit.backbones import SamBackbone, sam_spec
from segkit.backbones.sam_modules import TINY
from segkit.typing import Grid

SPEC = sam_spec(TINY)
GRID = Grid((1, 64, 64))


def attached(**options: object) -> tuple[SamBackbone, Frequency]:
    torch.manual_seed(0)
    backbone = SamBackbone.tiny(partial(Frequency, **options))
    return backbone, backbone.adapter


def stripes(period: int) -> Tensor:
    """Vertical stripes as the encoder sees them."""
    column = 0.5 + 0.4 * torch.cos(2 * torch.pi * torch.arange(64) / period)
    image = column.expand(1, 3, 64, 64)
    mean, std = (torch.tensor(v).view(3, 1, 1) / 255 for v in (SPEC.pixel_mean, SPEC.pixel_std))
    return (image - mean) / std


@pytest.mark.parametrize("compat", [None, "authors"])
def test_the_spectrum_of_stripes_is_three_dots(compat: str | None) -> None:
    _, adapter = attached(compat=compat)
    plane = adapter.spectrum(stripes(8))[0, 0]
    assert {tuple(at) for at in (plane > 0.2).nonzero().tolist()} == {(32, 24), (32, 32), (32, 40)}
    assert plane.min() == 0
    assert plane.max() == 1


def test_the_logarithm_lifts_what_is_faint() -> None:
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    plain, default = (attached(compat=c)[1].spectrum(image) for c in ("authors", None))
    assert plain.median() < 0.03 < 0.3 < default.median()


def test_authors_look_at_the_red_channel_only() -> None:
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    other = image.clone()
    other[:, 1:] = 0.3
    default, authors = attached()[1], attached(compat="authors")[1]
    assert authors.spectrum(image).equal(authors.spectrum(other))
    assert not default.spectrum(image).allclose(default.spectrum(other), rtol=1e-2)


def test_a_constant_image_is_finite() -> None:
    for value in (0.0, 0.7):
        assert attached()[1].spectrum(torch.full((1, 3, 64, 64), value)).isfinite().all()


def test_every_block_receives_half_of_the_stream_as_released() -> None:
    backbone, adapter = attached(compat="authors")
    image = stripes(8)
    streams = adapter.prepare(image, torch.zeros(1, 8, 8, 32), GRID)
    picture = adapter.spectrum(image).expand(-1, 3, -1, -1)
    mean, std = (torch.tensor(v).view(3, 1, 1) / 255 for v in (SPEC.pixel_mean, SPEC.pixel_std))
    pixels = ((picture - mean) / std).float()  # the spectrum is made in double precision
    expected = backbone.encoder.patch_embed(pixels) + backbone.encoder.pos_embed
    for index, layer in enumerate(adapter.layers):
        y = torch.nn.functional.layer_norm(expected, (32,), eps=1e-6)
        expected = y + layer.up(torch.nn.functional.gelu(layer.down(y)))
        torch.testing.assert_close(streams[index], expected)
        added = adapter.after(index, torch.ones(1, 8, 8, 32), streams)
        torch.testing.assert_close(added, 1 + 0.5 * expected)


def test_released_form_trains_no_norm_and_starts_away_from_the_identity() -> None:
    backbone, adapter = attached(compat="authors")
    assert not [name for name, _ in adapter.named_parameters() if "norm" in name or "gate" in name]
    image = torch.rand(1, 3, 64, 64)
    plain = SamBackbone.tiny(Adapter)
    assert not backbone(image, GRID).levels[0].allclose(plain(image, GRID).levels[0], rtol=1e-2)


def test_wrong_options_and_encoders_are_refused() -> None:
    with pytest.raises(ValueError, match="hidden must be >= 1, got 0"):
        Frequency(SPEC, hidden=0)
    with pytest.raises(ValueError, match="has no layer 'patch_embed'"):
        Frequency(SPEC).attach(torch.nn.Linear(2, 2))
