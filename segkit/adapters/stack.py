"""Several adapters at once."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import nn
from typing_extensions import override

from segkit.adapters.base import Adapter
from segkit.typing import BackboneSpec, Grid, Image, Tokens


class Stack(Adapter):
    """Apply several adapters in the order given, before and after each block.

    Members that edit weights (LoRA) act inside the block and may stand anywhere; two of them are
    refused by the second one.

    Example:
        >>> adapter = partial(Stack, adapters=[LoRA, partial(DepthwiseDilated, blocks=2)])
        >>> SamBackbone.tiny(adapter).adapter.members[1].blocks
        2
    """

    members: Any  # a ModuleList of adapters

    def __init__(
        self, spec: BackboneSpec, *, adapters: Sequence[Callable[[BackboneSpec], Adapter]] = ()
    ) -> None:
        super().__init__(spec)
        self.members = nn.ModuleList(make(spec) for make in adapters)

    @property
    @override
    def untouched(self) -> int:
        least = len(self.spec.blocks)
        return min((member.untouched for member in self.members), default=least)

    @override
    def attach(self, encoder: nn.Module) -> None:
        for member in self.members:
            member.attach(encoder)

    @override
    def prepare(self, image: Image, tokens: Tokens, grid: Grid) -> tuple[object, ...]:
        return tuple(member.prepare(image, tokens, grid) for member in self.members)

    @override
    def before(self, index: int, tokens: Tokens, state: object) -> Tokens:
        for member, own in self._with(state):
            tokens = member.before(index, tokens, own)
        return tokens

    @override
    def after(self, index: int, tokens: Tokens, state: object) -> Tokens:
        for member, own in self._with(state):
            tokens = member.after(index, tokens, own)
        return tokens

    def _with(self, state: Any) -> Iterator[tuple[Any, object]]:
        return zip(self.members, state, strict=True)
