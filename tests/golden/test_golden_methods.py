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
