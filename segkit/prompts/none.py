"""The prompt encoder of models that take no prompts."""

import torch
from typing_extensions import override

from segkit.errors import InputError
from segkit.prompts.base import PromptEncoder
from segkit.typing import Prompts, PromptTokens


class NoPrompts(PromptEncoder):
    """Hand an automatic decoder tokens without content; there is nothing to learn or to load.

    Example:
        >>> NoPrompts().empty(2, (64, 64)).sparse.shape
        torch.Size([2, 0, 0])
    """

    @override
    def forward(self, prompts: Prompts, size: tuple[int, int]) -> PromptTokens:
        """Refuse.

        Raises:
            InputError: Always.
        """
        raise InputError(
            "this network takes no prompts", fix="leave them out, or use an adapted SAM"
        )

    @override
    def empty(self, count: int, size: tuple[int, int]) -> PromptTokens:
        nothing = torch.zeros(count, 0, 1, 1)
        return PromptTokens(torch.zeros(count, 0, 0), nothing, nothing[:1])
