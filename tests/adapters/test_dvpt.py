import pytest
import torch

from segkit.adapters import DynamicPrompts
from segkit.adapters.dvpt import GatedBottleneck
from segkit.backbones.sam import sam_spec
from segkit.backbones.sam_modules import TINY
from segkit.typing import BackboneSpec, BlockSpec

SPEC = sam_spec(TINY)


def spec(*widths: tuple[int, int]) -> BackboneSpec:
    blocks = tuple(BlockSpec(before, after, 8) for before, after in widths)
    return BackboneSpec("groups", 64, 8, blocks, widths[-1][1], 8)


def opened(prompts: int = 3) -> GatedBottleneck:
    torch.manual_seed(0)
    module = GatedBottleneck(8, 4, prompts=prompts)
    torch.nn.init.ones_(module.gate)
    return module


def test_prompts_read_the_tokens_and_write_back() -> None:
    module, tokens = opened(), torch.randn(2, 5, 8)
    inner = module.down(tokens)
    inner = inner * torch.sigmoid(1.702 * inner)
    looks = torch.softmax(module.prompts @ inner.transpose(1, 2) / 2, -1)
    answers = looks @ inner
    seen = torch.softmax(inner @ answers.transpose(1, 2) / 2, -1) @ answers
    torch.testing.assert_close(module(tokens), module.up(seen))


def test_the_order_of_tokens_does_not_matter() -> None:
    module, tokens = opened(), torch.randn(1, 6, 8)
    order = torch.randperm(6)
    torch.testing.assert_close(module(tokens)[:, order], module(tokens[:, order]))


def test_one_token_changes_what_all_receive() -> None:
    module, tokens = opened(), torch.randn(1, 6, 8)
    other = tokens.clone()
    other[:, 0] += 3
    assert (module(other) - module(tokens))[:, 1:].abs().amin() > 0
    alone = opened(prompts=0)
    assert not (alone(other) - alone(tokens))[:, 1:].any()


def test_groups_share_a_module_and_end_where_the_width_changes() -> None:
    widths = [(8, 8), (8, 8), (8, 16), (16, 16), (16, 16), (16, 16), (16, 16), (16, 32), (32, 32)]
    adapter = DynamicPrompts(spec(*widths), share=3, hidden=2)
    assert adapter.groups == [0, 0, 0, 1, 1, 1, 2, 2, 3]
    assert [layer.down.in_features for layer in adapter.layers] == [8, 16, 16, 32]


@pytest.mark.parametrize("option", ["prompts", "hidden", "share"])
def test_wrong_options_are_refused(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option} must be >= 1, got 0"):
        DynamicPrompts(SPEC, **{option: 0})
