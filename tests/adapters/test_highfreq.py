import pytest
import torch

from segkit.adapters import HighFrequency
from segkit.backbones import SamBackbone, sam_spec
from segkit.backbones.sam_modules import NANO, TINY
from segkit.kernels.highpass import high_pass
from segkit.typing import BackboneSpec, BlockSpec, Grid

SPEC = sam_spec(TINY)


def test_high_pass_equals_the_shifted_box_of_the_paper() -> None:
    image = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0)).double()
    spectrum = torch.fft.fftshift(torch.fft.fft2(image, norm="forward"), dim=(-2, -1))
    spectrum[..., 16 - 8 : 16 + 8, 24 - 5 : 24 + 5] = 0
    shifted = torch.fft.ifftshift(spectrum, dim=(-2, -1))
    expected = torch.fft.ifft2(shifted, norm="forward").real.abs()
    torch.testing.assert_close(high_pass(image, (8, 5)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(15, 9), (16, 9)])
def test_high_pass_of_a_constant_is_zero(size: tuple[int, int]) -> None:
    assert high_pass(torch.ones(1, 1, *size), (1, 1)).abs().max() < 1e-6


def test_half_widths_follow_each_axis_unless_compat() -> None:
    size = torch.Size((64, 128))
    assert HighFrequency(SPEC)._half(size) == (16, 32)
    assert HighFrequency(SPEC, compat="authors")._half(size) == (22, 22)
    square = torch.Size((64, 64))
    assert HighFrequency(SPEC)._half(square) == HighFrequency(SPEC, compat="authors")._half(square)


def test_authors_form_starts_near_the_identity_not_at_it() -> None:
    torch.manual_seed(0)
    adapter = HighFrequency(sam_spec(NANO), compat="authors")
    image, tokens = torch.rand(1, 3, 64, 64), torch.randn(1, 4, 4, NANO.embed_dim)
    state = adapter.prepare(image, tokens, Grid((1, 64, 64)))
    size = (adapter.before(0, tokens, state) - tokens).abs().mean()
    assert 0 < size < 0.05


def test_features_are_computed_once_and_shared() -> None:
    backbone = SamBackbone.tiny(HighFrequency)
    calls: list[int] = []
    prepare = backbone.adapter.prepare
    backbone.adapter.prepare = lambda *a: calls.append(1) or prepare(*a)  # type: ignore[method-assign]
    backbone(torch.rand(1, 3, 64, 64), Grid((1, 64, 64)))
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"ratio": 0}, "ratio must be 1 to the smallest width 32, got 0"),
        ({"ratio": 33}, "ratio must be 1 to the smallest width 32, got 33"),
        ({"rate": 1.0}, r"rate must be in \(0, 1\), got 1\.0"),
        ({"compat": "authors", "ratio": 8}, "compat='authors' fixes ratio and rate"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        HighFrequency(SPEC, **options)  # type: ignore[arg-type]


def hierarchical(dim: int = 32) -> BackboneSpec:
    blocks = (
        BlockSpec(dim, dim, 4),
        BlockSpec(dim, 2 * dim, 8),
        BlockSpec(2 * dim, 2 * dim, 8),
        BlockSpec(2 * dim, 4 * dim, 16),
    )
    return BackboneSpec("stages", 64, 4, blocks, 4 * dim, 16)


def test_changing_widths_get_one_group_per_width_and_stride() -> None:
    spec = hierarchical()
    adapter = HighFrequency(spec, ratio=8)
    assert adapter.groups == [0, 0, 1, 1]
    image = torch.rand(2, 3, 64, 96)
    state = adapter.prepare(image, torch.randn(2, 16, 24, 32), Grid((1, 64, 96)))
    sizes = [(16, 24), (16, 24), (8, 12), (8, 12)]
    inputs = [
        torch.randn(2, *size, block.dim_in) for size, block in zip(sizes, spec.blocks, strict=True)
    ]
    for index, tokens in enumerate(inputs):
        assert torch.equal(adapter.before(index, tokens, state), tokens)
    for up in adapter.up:
        torch.nn.init.ones_(up.weight)
    loss = sum(
        adapter.before(index, tokens, state).square().mean() for index, tokens in enumerate(inputs)
    )
    loss.backward()
    assert [name for name, p in adapter.named_parameters() if not p.grad.any()] == []


def test_a_group_embeds_what_enters_it_once() -> None:
    adapter = HighFrequency(hierarchical(), ratio=8)
    torch.nn.init.ones_(adapter.up[0].weight)
    state = adapter.prepare(torch.rand(1, 3, 64, 64), torch.zeros(1), Grid((1, 64, 64)))
    first, other = torch.randn(2, 1, 16, 16, 32)
    adapter.before(0, first, state)
    adapter.light[1].load_state_dict(adapter.light[0].state_dict())
    expected = adapter.before(0, first, state) - first
    torch.testing.assert_close(adapter.before(1, other, state) - other, expected)
