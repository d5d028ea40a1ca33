from functools import partial

import pytest
import torch
from typing_extensions import override

from segkit.adapters import Adapter, DepthwiseDilated, HighFrequency, Stack
from segkit.backbones import SamBackbone, sam_spec
from segkit.backbones.sam_modules import TINY
from segkit.typing import BackboneSpec, Grid, Image, Tokens


class Affine(Adapter):
    """Scale, then shift by the state: the order of two of them shows."""

    def __init__(self, spec: BackboneSpec, *, scale: float = 1.0, shift: float = 0.0) -> None:
        super().__init__(spec)
        self.scale, self.shift = scale, shift

    @override
    def prepare(self, image: Image, tokens: Tokens, grid: Grid) -> float:
        return self.shift

    @override
    def before(self, index: int, tokens: Tokens, state: object) -> Tokens:
        return tokens * self.scale + state

    @override
    def after(self, index: int, tokens: Tokens, state: object) -> Tokens:
        return tokens * self.scale - state


def test_members_act_in_order_with_their_own_state() -> None:
    members = [partial(Affine, scale=2.0, shift=1.0), partial(Affine, scale=3.0, shift=5.0)]
    stack = Stack(sam_spec(TINY), adapters=members)
    tokens = torch.ones(1, 1, 1, 1)
    state = stack.prepare(tokens, tokens, Grid((1, 1, 1)))
    assert stack.before(0, tokens, state).item() == (1 * 2 + 1) * 3 + 5
    assert stack.after(0, tokens, state).item() == (1 * 2 - 1) * 3 - 5


def test_one_member_equals_the_member_alone() -> None:
    image, grid = torch.rand(1, 3, 64, 64), Grid((1, 64, 64))
    levels = []
    for adapter in (HighFrequency, partial(Stack, adapters=[HighFrequency])):
        torch.manual_seed(0)
        backbone = SamBackbone.tiny(adapter)
        torch.nn.init.ones_(next(backbone.adapter.parameters()))
        levels.append(backbone(image, grid).levels[0])
    torch.testing.assert_close(*levels, rtol=0, atol=0)


def test_members_of_partials_are_built_on_the_specification() -> None:
    stack = Stack(sam_spec(TINY), adapters=[partial(DepthwiseDilated, blocks=2), HighFrequency])
    assert [type(member).__name__ for member in stack.members] == [
        "DepthwiseDilated",
        "HighFrequency",
    ]
    assert stack.members[0].blocks == 2


def test_state_of_another_stack_is_refused() -> None:
    stack = Stack(sam_spec(TINY), adapters=[Affine])
    with pytest.raises(ValueError, match="zip"):
        stack.before(0, torch.ones(1, 1, 1, 1), (1.0, 2.0))
