"""Numbers of the released implementations of I-MedSAM and DVPT."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from segkit.adapters import DynamicPrompts
from segkit.adapters.dvpt import GatedBottleneck
from segkit.adapters.frequency import FrequencyBottleneck
from segkit.adapters.lora import ThirdsLoRA
from segkit.backbones.sam import sam_spec
from segkit.backbones.sam_modules import VIT_B
from segkit.decoders.inr import MaskField, centres, released_code_points
from segkit.decoders.inr_field import CODE, ImplicitField, coordinate_code

Fill = Callable[[list[nn.Parameter]], None]


@pytest.fixture
def fill_tensors() -> Fill:
    """Tensor j, element k: 0.1 sin(0.37 k + j); scales of norms get 1 more."""

    def fill(tensors: list[nn.Parameter]) -> None:
        with torch.no_grad():
            for j, tensor in enumerate(tensors):
                k = torch.arange(tensor.numel(), dtype=torch.float64)
                tensor.copy_((0.1 * torch.sin(0.37 * k + j)).view(tensor.shape))

    return fill


def close(found: list[float], expected: list[float]) -> None:
    assert found == pytest.approx(expected, abs=2e-9)


def test_frequency_bottleneck(
    fill_tensors: Fill, wave: Callable[..., Tensor], summary: Callable[[Tensor], list[float]]
) -> None:
    module = FrequencyBottleneck(16, 4, compat="authors").double()
    fill_tensors([*module.down.parameters(), *module.up.parameters()])
    close(
        summary(module.bottleneck(wave(1, 2, 2, 16))),
        [0.0727522929, 0.7132500699, 0.5068338922, -0.7623688710, 1.0034017574],
    )


def test_gated_low_rank_query_and_value(
    fill_tensors: Fill, wave: Callable[..., Tensor], summary: Callable[[Tensor], list[float]]
) -> None:
    base = nn.Linear(16, 48).double()
    module = ThirdsLoRA(base, ("q", "v"), rank=4, gated=True)
    a, b = module.lora_A, module.lora_B
    order = [base, module.lora_gate, a["q"], b["q"], a["v"], b["v"]]
    fill_tensors([p for layer in order for p in layer.parameters()])
    close(
        summary(module(wave(2, 3, 3, 16))),
        [-0.0012849091, 0.2641708699, 0.0458982078, 0.0611008052, -0.0850161620],
    )


def test_released_dvpt_bottleneck(
    fill_tensors: Fill, wave: Callable[..., Tensor], summary: Callable[[Tensor], list[float]]
) -> None:
    module = GatedBottleneck(16, 20).double()
    fill_tensors([module.gate, *module.down.parameters(), *module.up.parameters()])
    nn.init.zeros_(module.gate)
    assert not module(wave(2, 3, 16)).any()
    nn.init.ones_(module.gate)
    close(
        summary(module(wave(2, 3, 16))),
        [-0.0010921978, 0.1667159139, -0.0957580191, 0.0349520666, 0.2403865079],
    )


@pytest.mark.parametrize(
    ("options", "parameters"),
    [({}, 126_836), ({"share": 1}, 380_508), ({"compat": "authors"}, 4 * 31_509)],
)
def test_dynamic_prompts_on_vit_b(options: dict[str, object], parameters: int) -> None:
    with torch.device("meta"):
        adapter = DynamicPrompts(sam_spec(VIT_B), **options)  # type: ignore[arg-type]
    assert sum(p.numel() for p in adapter.parameters()) == parameters


def released_field(compat: str | None, share: float, fill: Fill) -> ImplicitField:
    field = ImplicitField(32, 256 + CODE, share=share, compat=compat).double().eval()  # type: ignore[arg-type]
    parts = (field.coarse_trunk, field.fine_trunk, field.coarse_heads, field.fine_heads)
    fill([parameter for part in parts for parameter in part.parameters()])
    with torch.no_grad():
        for module in field.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.weight += 1
    return field


@pytest.mark.parametrize(
    ("share", "index", "expected"),
    [
        (0.125, 0, [-3.7604042667, 0.2858854578, -3.8184371964, -3.5153421207, -3.4002161153]),
        (1.0, 1, [-0.5414954107, 0.0069249859, -0.5460359383, -0.5378177536, -0.5387495466]),
    ],
    ids=["coarse", "fine"],
)
def test_implicit_field(
    fill_tensors: Fill,
    wave: Callable[..., Tensor],
    summary: Callable[[Tensor], list[float]],
    share: float,
    index: int,
    expected: list[float],
) -> None:
    net = released_field("authors", share, fill_tensors)
    cells = wave(1, 64, 32).transpose(1, 2).unflatten(2, (8, 8))
    opened = MaskField(net, cells, wave(1, 256, 4, 4), torch.ones(CODE, dtype=torch.float64))
    places = released_code_points((6, 5), torch.float64)
    maps = net(opened.samples(centres((6, 5), dtype=torch.float64), places))
    close(summary(maps[index]), expected)


def test_released_coordinate_code(summary: Callable[[Tensor], list[float]]) -> None:
    point = torch.tensor([[-1.0, -0.5, 0.25]], dtype=torch.float64)
    code = coordinate_code(point, compat="authors")
    assert code.shape == (1, 63)
    close(summary(code), [0.0566907719, 0.7027161347, 0.0, 0.5351928062, 0.25])
