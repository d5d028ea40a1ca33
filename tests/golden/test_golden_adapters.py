"""Numbers of the released implementations of the adapters (SAM-Adapter, DD-SAM2)."""

from collections.abc import Callable

import pytest
import torch

from segkit.adapters import DepthwiseDilated, HighFrequency, LoRA
from segkit.backbones.sam import SamBackbone, sam_spec
from segkit.backbones.sam_modules import SIZES, SamModules
from segkit.kernels.highpass import high_pass
from segkit.typing import BackboneSpec, BlockSpec, Grid

HIERA_T_WIDTHS = (96, 192, 192, *[384] * 7, 768, 768)


def spec(*widths: int, patch: int = 8, size: int = 32) -> BackboneSpec:
    blocks = tuple(BlockSpec(width, width, patch) for width in widths)
    return BackboneSpec("golden", size, patch, blocks, widths[-1], patch)


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("name", "total", "up", "embedding", "patches", "light"),
    [
        ("sam_vit_b", 63_312, 19_200, 18_456, 18_456, 7_200),
        ("sam_vit_l", 116_544, 33_792, 32_800, 24_608, 25_344),
        ("sam_vit_h", 186_960, 52_480, 51_240, 30_760, 52_480),
    ],
)
def test_high_frequency_parameters(
    name: str, total: int, up: int, embedding: int, patches: int, light: int
) -> None:
    with torch.device("meta"):
        adapter = HighFrequency(sam_spec(SIZES[name]))
    parts = (adapter.up, adapter.embedding, adapter.patches, adapter.light)
    assert [count(part) for part in parts] == [up, embedding, patches, light]
    assert count(adapter) == total


def hiera_spec(*stages: tuple[int, int]) -> BackboneSpec:
    """Specification of a Hiera with (width, blocks) per stage; stage ends pool in the next one."""
    blocks: list[BlockSpec] = []
    for level, (width, count) in enumerate(stages):
        before = blocks[-1].dim_out if blocks else width
        blocks += [
            BlockSpec(before if i == 0 else width, width, 4 * 2**level) for i in range(count)
        ]
    return BackboneSpec("hiera", 64, 4, tuple(blocks), stages[-1][0], 32)


def test_high_frequency_parameters_on_hiera_l() -> None:
    spec = hiera_spec((144, 2), (288, 6), (576, 36), (1152, 4))
    with torch.device("meta"):
        adapter = HighFrequency(spec, compat="authors")
    idle = 3_096  # light layers of the released code that no block uses
    assert count(adapter) == 140_650 - idle
    assert [adapter.groups.count(group) for group in range(4)] == [3, 6, 36, 3]


def test_vit_b_encoder_with_generator_and_trained_total() -> None:
    with torch.device("meta"):
        modules = SamModules(SIZES["sam_vit_b"])
        backbone = SamBackbone(modules.image_encoder, modules.sizes, HighFrequency)
    assert count(backbone) == 89_734_224
    trained = count(backbone.adapter) + count(modules.mask_decoder)
    assert trained + count(modules.prompt_encoder.no_mask_embed) == 4_121_908


@pytest.mark.parametrize(
    ("width", "parameters"), [(96, 10_320), (192, 39_072), (384, 151_872), (768, 598_656)]
)
def test_dilated_parameters_per_width(width: int, parameters: int) -> None:
    with torch.device("meta"):
        assert count(DepthwiseDilated(spec(width))) == parameters


@pytest.mark.parametrize(
    ("blocks", "parameters"),
    [(2, 49_392), (4, 240_336), (6, 544_080), (8, 847_824), (10, 1_151_568), (None, 2_348_880)],
)
def test_dilated_parameters_on_hiera_t(blocks: int | None, parameters: int) -> None:
    with torch.device("meta"):
        assert count(DepthwiseDilated(spec(*HIERA_T_WIDTHS), blocks=blocks)) == parameters


def test_lora_parameters_on_vit_b() -> None:
    rank, dim, depth = 4, 768, 12
    with torch.device("meta"):
        modules = SamModules(SIZES["sam_vit_b"])
        backbone = SamBackbone(modules.image_encoder, modules.sizes, LoRA)
    assert count(backbone.adapter) == depth * rank * ((dim + 3 * dim) + (dim + dim))


@pytest.mark.parametrize(
    ("size", "half", "expected"),
    [
        ((32, 32), 8, (0.6371333103, 0.3078087826, 0.4193554845, 0.1851236168, 0.7760637013)),
        ((64, 128), 22, (0.0436888781, 0.0763798126, 0.2317217296, 0.1742798222, 0.2954832378)),
    ],
)
def test_high_pass(
    size: tuple[int, int],
    half: int,
    expected: tuple[float, ...],
    wave: Callable,
    summary: Callable,
) -> None:
    assert summary(high_pass(wave(1, 3, *size), (half, half))) == pytest.approx(expected, abs=1e-9)


PROMPTS = {
    "authors": [
        (-0.0008623073, 0.0723928988, 0.0829114900, 0.0824766728, -0.0767633204),
        (-0.0001758143, 0.0724305828, 0.0858964465, 0.0861352448, -0.0713059389),
    ],
    None: [
        (-0.0008316455, 0.0723795377, 0.0837647361, 0.0833308472, -0.0759872040),
        (-0.0001878453, 0.0724196639, 0.0853547880, 0.0855109922, -0.0715739615),
    ],
}


@pytest.mark.parametrize("compat", ["authors", None])
def test_high_frequency_prompts(
    compat: str | None, fill: Callable, wave: Callable, summary: Callable
) -> None:
    adapter = HighFrequency(spec(64, 64), compat=compat).double()  # type: ignore[arg-type]
    parts = (*adapter.up, *adapter.embedding, *adapter.light, *adapter.patches)
    fill(parts)
    state = adapter.prepare(wave(1, 3, 32, 32), wave(1, 4, 4, 64), Grid((1, 32, 32)))
    features = state.image[0] + state.embedded[0]
    for index, expected in enumerate(PROMPTS[compat]):
        assert summary(adapter.prompt(index, features)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("topology", "expected"),
    [
        ("parallel", (0.0007402893, 0.0366549624, 0.0299772752, -0.0167100993, -0.0083806993)),
        ("serial", (0.0024685330, 0.0453833307, 0.0660567998, 0.0081994727, -0.0113731827)),
    ],
)
def test_dilated_bottleneck(
    topology: str, expected: tuple[float, ...], fill: Callable, wave: Callable, summary: Callable
) -> None:
    adapter = DepthwiseDilated(spec(16), topology=topology, compat="authors").double()  # type: ignore[arg-type]
    layer = adapter.layers[0]
    parts = (layer.down, *layer.branches, layer.up)
    fill(parts)
    tokens = wave(1, 9, 7, 16)
    assert summary(layer(tokens) - tokens) == pytest.approx(expected, abs=1e-9)
