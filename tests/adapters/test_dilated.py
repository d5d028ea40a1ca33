import pytest
import torch
import torch.nn.functional as F

from segkit.adapters import DepthwiseDilated
from segkit.backbones import SamBackbone, sam_spec
from segkit.backbones.sam_modules import TINY
from segkit.kernels.dilated import depthwise_gelu
from segkit.typing import Grid

SPEC = sam_spec(TINY)


def test_only_the_first_blocks_are_adapted() -> None:
    adapter = DepthwiseDilated(SPEC, blocks=1, compat="authors")
    tokens = torch.randn(1, 5, 3, 32)
    assert not torch.equal(adapter.after(0, tokens, None), tokens)
    assert adapter.after(1, tokens, None) is tokens


def test_kernel_reaches_exactly_its_rate() -> None:
    x = torch.zeros(1, 1, 9, 9)
    x[0, 0, 4, 4] = 1.0
    out = depthwise_gelu(x, torch.ones(1, 1, 3, 3), torch.zeros(1), 3)
    rows, cols = out[0, 0].nonzero(as_tuple=True)
    assert set(rows.tolist()) == set(cols.tolist()) == {1, 4, 7}
    assert out.max() == F.gelu(torch.ones(1))


def test_authors_form_is_bounded_below() -> None:
    adapter = DepthwiseDilated(SPEC, compat="authors")
    tokens = 10 * torch.randn(2, 8, 8, 32)
    change = adapter.after(0, tokens, None) - tokens
    assert -0.171 < change.min() < 0


def test_rates_are_configurable_in_both_topologies() -> None:
    image, grid = torch.rand(1, 3, 64, 64), Grid((1, 64, 64))
    levels = []
    for topology in ("parallel", "serial"):
        torch.manual_seed(0)
        backbone = SamBackbone.tiny(
            lambda spec, topology=topology: DepthwiseDilated(
                spec, rates=(1, 2, 4), topology=topology, compat="authors"
            )
        )
        assert [conv.dilation[0] for conv in backbone.adapter.layers[0].branches] == [1, 2, 4]
        levels.append(backbone(image, grid).levels[0])
    assert not torch.equal(*levels)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"blocks": 0}, "blocks must be None or 1 to 3, got 0"),
        ({"blocks": 4}, "blocks must be None or 1 to 3, got 4"),
        ({"rates": (1, 0)}, r"dilation rates must be >= 1 and not empty, got \(1, 0\)"),
        ({"rates": ()}, "dilation rates must be >= 1 and not empty"),
        ({"topology": "star"}, "topology must be 'parallel' or 'serial', got 'star'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        DepthwiseDilated(SPEC, **options)  # type: ignore[arg-type]
