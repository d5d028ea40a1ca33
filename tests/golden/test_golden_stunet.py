"""Numbers of the released implementation of STU-Net."""

from collections.abc import Callable

import pytest
import torch

from segkit.baselines.stunet import STU_NET_TINY, STU_NETS, ResidualBlock, StuNet

COUNTS = {
    ("stu_net_s", 105): 14_596_941,
    ("stu_net_s", 2): 14_545_338,
    ("stu_net_b", 105): 58_262_669,
    ("stu_net_b", 2): 58_159_978,
    ("stu_net_l", 105): 440_302_605,
    ("stu_net_l", 2): 440_097_738,
    ("stu_net_h", 105): 1_457_326_221,
    ("stu_net_h", 2): 1_457_019_178,
    ("stu_net_tiny", 2): 370_678,
}
KEYS = {"stu_net_s": 130, "stu_net_b": 130, "stu_net_l": 218, "stu_net_h": 306}
OUTPUTS = {
    64: [-0.0810032932, 0.1093205151, -0.0173706282, -0.0849741217, -0.0912771812],
    32: [0.0966981890, 0.2114166481, 0.1206476114, 0.0785598195, 0.0672181757],
    16: [-0.0088029537, 0.0254813758, -0.0189426075, 0.0268518724, 0.0075852567],
    8: [-0.1827375901, 0.0692798165, -0.1345818262, -0.1325463460, -0.0974422100],
    4: [0.1157865611, 0.0875352518, 0.0331217977, 0.0341714822, 0.0764282433],
}


@pytest.mark.parametrize(("name", "outputs"), COUNTS)
def test_stunet_parameters(name: str, outputs: int) -> None:
    with torch.device("meta"):
        net = StuNet(STU_NETS[name], outputs=outputs)
    assert sum(parameter.numel() for parameter in net.parameters()) == COUNTS[name, outputs]
    if name in KEYS:
        assert len(net.state_dict()) == KEYS[name]


def test_stunet_outputs(
    wave: Callable[..., torch.Tensor], summary: Callable[[torch.Tensor], list[float]]
) -> None:
    net = StuNet(STU_NET_TINY, outputs=2).double()
    with torch.no_grad():
        for j, (name, parameter) in enumerate(_released_order(net)):
            k = torch.arange(parameter.numel(), dtype=torch.float64)
            is_scale = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_((0.1 * torch.sin(0.37 * k + j)).view(parameter.shape) + is_scale)
        levels = net(wave(1, 1, 64, 64, 64))
    for level in levels:
        assert summary(level) == pytest.approx(OUTPUTS[level.shape[-1]], abs=1e-9)


def _released_order(net: StuNet) -> list[tuple[str, torch.Tensor]]:
    parts = ("conv_blocks_context", "upsample_layers", "conv_blocks_localization", "seg_outputs")
    layers = ("conv1", "norm1", "conv2", "norm2", "conv3")
    found: list[tuple[str, torch.Tensor]] = []
    for part in parts:
        for name, module in getattr(net, part).named_modules():
            if isinstance(module, ResidualBlock):
                found += [
                    (f"{name}.{layer}.{key}", tensor)
                    for layer in layers
                    if getattr(module, layer) is not None
                    for key, tensor in getattr(module, layer).named_parameters()
                ]
            elif part in ("upsample_layers", "seg_outputs") and isinstance(module, torch.nn.Conv3d):
                found += [(f"{name}.{key}", tensor) for key, tensor in module.named_parameters()]
    assert len(found) == len(list(net.parameters()))
    return found
