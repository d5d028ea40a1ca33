"""Prompts as dynamic queries in a bottleneck shared by groups of blocks (DVPT)."""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from segkit.adapters.base import Adapter, Compat, require_compat
from segkit.kernels.prompted import prompted_bottleneck, seen
from segkit.typing import BackboneSpec, Tokens


class DynamicPrompts(Adapter):
    """Let learned prompts look at the tokens inside a bottleneck and tell them what they saw.

    Source: "DVPT: Dynamic Visual Prompt Tuning" (He et al., Neural Networks 185, 2025, arXiv
    2307.09787), as its abstract describes it: a bottleneck transforms the frozen features, learned
    prompts are queries that attend to them, the result is projected up and added to the frozen
    features, and one module serves a group of layers. Nothing released does this: the attention
    of the released ViT is computed and discarded, the other variants add it to the first ten
    tokens of the map. The way back from prompts to tokens, a second attention, is therefore our
    reading; it does not depend on the order of tokens. A gate starts at zero.

    `prompts` queries, `hidden` channels, one module per `share` consecutive blocks of equal width.
    `compat="authors"` is what the released ViT computes: the gated bottleneck alone, without
    prompts. It acts on the input of a block here, where the authors put it beside the MLP; their
    whole model is `segkit.models.dvpt_classifier`.

    Example:
        >>> backbone = SamBackbone.tiny(partial(DynamicPrompts, prompts=2, hidden=4))
        >>> sum(p.numel() for p in backbone.adapter.parameters())
        301
    """

    def __init__(
        self,
        spec: BackboneSpec,
        *,
        prompts: int = 10,
        hidden: int = 20,
        share: int = 3,
        compat: Compat | None = None,
    ) -> None:
        super().__init__(spec)
        require_compat(compat)
        for name, value in (("prompts", prompts), ("hidden", hidden), ("share", share)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        self.groups, widths = _groups([block.dim_in for block in spec.blocks], share)
        self.layers = nn.ModuleList(
            GatedBottleneck(width, hidden, prompts=0 if compat else prompts) for width in widths
        )

    @override
    def before(self, index: int, tokens: Tokens, state: object) -> Tokens:
        layer = cast(GatedBottleneck, self.layers[self.groups[index]])
        return layer.told(tokens.flatten(1, -2)).view_as(tokens)


class GatedBottleneck(nn.Module):
    """Down, sigmoid-approximated GELU, what `prompts` saw, up, times a gate that starts at zero.

    Without prompts it is the released form. Returns what is to be added.
    """

    def __init__(self, dim: int, hidden: int = 20, *, prompts: int = 0) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(1))
        self.down = nn.Linear(dim, hidden)
        self.up = nn.Linear(hidden, dim)
        self.prompts = nn.Parameter(torch.empty(prompts, hidden)) if prompts else None
        if self.prompts is not None:
            nn.init.trunc_normal_(self.prompts, std=0.02)

    @override
    def forward(self, tokens: Float[Tensor, "n tokens dim"]) -> Float[Tensor, "n tokens dim"]:
        inner = self.down(tokens)
        inner = inner * torch.sigmoid(1.702 * inner)
        if self.prompts is not None:
            inner = seen(inner, self.prompts)
        return self.gate * self.up(inner)

    def told(self, tokens: Float[Tensor, "n tokens dim"]) -> Float[Tensor, "n tokens dim"]:
        """Tokens with what is to be added."""
        if self.prompts is None:
            return tokens + self(tokens)
        down, up = ((layer.weight, layer.bias) for layer in (self.down, self.up))
        return prompted_bottleneck(tokens, down, self.prompts, up, self.gate)


def _groups(widths: list[int], share: int) -> tuple[list[int], list[int]]:
    """Group of each block, and the width of each group."""
    groups: list[int] = []
    of_group: list[int] = []
    members = share
    for width in widths:
        if members == share or of_group[-1] != width:
            of_group.append(width)
            members = 0
        members += 1
        groups.append(len(of_group) - 1)
    return groups, of_group
