"""Numbers of the released implementation of 3DSAM-adapter.

The released code orders volumes (height, width, depth); here they are (depth, height, width), so
inputs and kernels are turned before and results after. Closed-form weights as in conftest.
"""

from collections.abc import Callable, Iterable

import pytest
import torch
from segment_anything.modeling.image_encoder import Block
from torch import Tensor, nn

from segkit.adapters.spatial import SpatialBottleneck
from segkit.backbones.sam3d_modules import LiftBlock
from segkit.backbones.windows3d import WindowPlan, window_attention
from segkit.decoders.multilevel3d import MultilevelDecoder
from segkit.prompts.sampler import PointSampler
from segkit.typing import BackboneSpec, Features, Grid, Prompts, PromptTokens

Summary = Callable[[Tensor], list[float]]
Wave = Callable[..., Tensor]


def fill(parameters: Iterable[Tensor], norms: Iterable[int] = ()) -> None:
    """Tensor number j by the rule; scales of norms get + 1; kernels are given as released."""
    scales = set(norms)
    with torch.no_grad():
        for j, parameter in enumerate(parameters):
            k = torch.arange(parameter.numel(), dtype=torch.float64)
            values = 0.1 * torch.sin(0.37 * k + j) + (j in scales)
            if parameter.ndim == 5 and parameter.shape[2] == 3:
                # a released kernel is (height, width, depth)
                shape = parameter.shape
                values = values.view(shape).permute(0, 1, 4, 2, 3)
            parameter.copy_(values.reshape(parameter.shape))


def turned(x: Tensor) -> Tensor:
    """Channel-last (h, w, d) to (d, h, w)."""
    return x.permute(0, 3, 1, 2, 4)


def spec(dim: int) -> BackboneSpec:
    return BackboneSpec("golden", 32, 4, (), dim, 4, dimensions=3)


def adapter_parameters(layer: SpatialBottleneck) -> list[Tensor]:
    return [p for part in (layer.down, layer.conv, layer.up) for p in (part.weight, part.bias)]


def test_spatial_adapter(wave: Wave, summary: Summary) -> None:
    layer = SpatialBottleneck(8, 4, compat="authors").double()
    fill(adapter_parameters(layer))
    x = turned(wave(1, 4, 4, 4, 8))
    found = layer(x.flatten(0, 1), 4).unflatten(0, (1, 4)).permute(0, 2, 3, 1, 4)
    expected = [0.0299537181, 0.7091992197, 0.4794255386, -0.3761764102, 0.2574490828]
    assert summary(found) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("side", "is_shifted", "expected"),
    [
        (16, False, [0.0313633509, 1.4903661766, 0.6573655338, -2.2038243910, 0.0594399269]),
        (32, True, [0.0310865421, 1.4904468455, 0.5249529303, 1.3604890993, -0.3447741073]),
    ],
)
def test_block(
    side: int, is_shifted: bool, expected: list[float], wave: Wave, summary: Summary
) -> None:
    block = Block(16, 2, use_rel_pos=True, window_size=14, input_size=(14, 14)).double()
    lift, adapter = LiftBlock(block), SpatialBottleneck(16, 8, compat="authors").double()
    attn, constant = block.attn, torch.ones(1)  # the released scale of relative positions is 1
    parts = (attn.qkv, attn.proj, lift.norm2, block.mlp.lin1, block.mlp.lin2)
    parameters = [
        lift.norm1.weight, lift.norm1.bias, attn.rel_pos_h, attn.rel_pos_w, lift.rel_pos_d,
        constant, *(p for part in parts for p in (part.weight, part.bias)),
        *adapter_parameters(adapter),
    ]  # fmt: skip
    fill(parameters, norms=(0, 10))
    plan = WindowPlan.of((side,) * 3, 8, is_shifted=is_shifted)
    codes = plan.codes(torch.device("cpu"))
    assert (codes is not None) == is_shifted
    x = turned(wave(1, side, side, side, 16))
    x = adapter(x.flatten(0, 1), side).unflatten(0, (1, side))
    x = x + window_attention(attn, lift.norm1(x), plan, lift.rel_pos_d, codes)
    x = x + block.mlp(lift.norm2(x))
    assert summary(x.permute(0, 2, 3, 1, 4)) == pytest.approx(expected, abs=1e-9)


def test_shift_mask() -> None:
    codes = WindowPlan.of((32, 32, 32), 8, is_shifted=True).codes(torch.device("cpu"))
    assert codes is not None
    # regions of the three axes agree where all three code products are 1
    far = (codes @ codes.transpose(1, 2)) < 3
    assert far.shape == (64, 512, 512)
    assert far.double().mean().item() == 0.330078125


def test_point_encoder(wave: Wave, summary: Summary) -> None:
    encoder = PointSampler(spec(32), heads=4, mlp=64, compat="authors").double()
    names = [name for name, _ in encoder.layers[0].named_parameters()]
    norms = [j for j, name in enumerate(names) if name.startswith("norm") and "weight" in name]
    fill(encoder.parameters(), norms=[*norms, *(j + len(names) for j in norms)])
    features = Features((wave(1, 32, 8, 8, 8),), Grid((32, 32, 32)))
    # the released code takes voxels of a 128-cube; a cell is then 16 voxels
    encoder.stride = 16
    features = Features(features.levels, Grid((128, 128, 128)))
    points = torch.tensor([[[100, 60, 3], [64, 64, 64]]], dtype=torch.float64)  # released: x, y, z
    found = encoder.tokens(features, Prompts(points, torch.ones(1, 2, dtype=torch.long)))
    expected = [-0.0170668179, 1.0131189909, 0.9090541964, 0.1727307402, -0.6064502094]
    assert summary(found.dense) == pytest.approx(expected, abs=1e-7)


def test_decoder(wave: Wave, summary: Summary) -> None:
    decoder = MultilevelDecoder(spec(32), compat="authors").double()
    convs = [m for m in decoder.modules() if isinstance(m, nn.Conv3d)]
    fill([conv.weight for conv in convs])
    k = torch.arange(32 * 512, dtype=torch.float64)
    levels = [torch.sin(0.11 * k + 0.5 + f).view(1, 32, 8, 8, 8) for f in range(4)]
    turn = (0, 1, 4, 2, 3)
    grey = wave(1, 1, 16, 16, 16).permute(turn)
    features = Features((grey, *(level.permute(turn) for level in levels)), Grid((32, 32, 32)))
    nothing = torch.zeros(1, 0, 32, dtype=torch.float64)
    tokens = PromptTokens(nothing, features.levels[-1], nothing)
    two = [s.permute(0, 1, 3, 4, 2) for s in both_classes(decoder, features, tokens)]
    expected = [-0.0290756886, 0.2690086947, -0.0601046467, 0.0612753930, -0.0288765988]
    assert summary(torch.cat(two, dim=1)) == pytest.approx(expected, abs=1e-9)
    logit = decoder(features, tokens).logits.permute(0, 1, 3, 4, 2)
    torch.testing.assert_close(logit, two[1] - two[0])


def both_classes(
    decoder: MultilevelDecoder, features: Features, tokens: PromptTokens
) -> list[Tensor]:
    """Background and foreground; the decoder itself returns their difference."""
    last = decoder.joined[-1]
    weight = last.weight.detach().clone()
    found = []
    for kept in (0, 1):
        last.weight.data.copy_(weight)
        last.weight.data[1 - kept] = 0
        sign = 2 * kept - 1
        found.append(sign * decoder(features, tokens).logits)
    last.weight.data.copy_(weight)
    return found
