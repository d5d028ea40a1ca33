"""The adapter protocol: one trainable object that edits tokens around frozen blocks."""

from typing import ClassVar, Literal

from torch import nn

from segkit.typing import BackboneSpec, Grid, Image, Tokens

Compat = Literal["authors"]
"""The released code of a method, bit for bit, where it differs from segkit's default."""


class Adapter(nn.Module):
    """Trainable edit around frozen blocks. This base class is the identity.

    A backbone calls `attach` once, then for each forward pass `prepare`, and `before` and `after`
    around each block. State of a forward pass is returned by `prepare` and handed on; it is never
    stored on `self`.
    """

    not_identity_because: ClassVar[str] = ""
    """Why the default form does not start as the identity; empty if it does."""

    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__()
        self.spec = spec

    @property
    def untouched(self) -> int:
        """Leading blocks that see only frozen tokens; what they compute can be kept.

        The output of the last of them may be edited, by `after`. An adapter that edits weights, or
        does not say, touches the first block.
        """
        return len(self.spec.blocks) if type(self) is Adapter else 0

    def attach(self, encoder: nn.Module) -> None:
        """Bind to the frozen encoder; only weight edits (LoRA) need it."""

    def prepare(self, image: Image, tokens: Tokens, grid: Grid) -> object:
        """Compute once per forward pass what all blocks share.

        `image` is normalised as the encoder sees it; `tokens` is the patch embedding before
        position embeddings are added.
        """
        return None

    def before(self, index: int, tokens: Tokens, state: object) -> Tokens:
        """Edit what enters block `index`."""
        return tokens

    def after(self, index: int, tokens: Tokens, state: object) -> Tokens:
        """Edit what leaves block `index`."""
        return tokens


def require_compat(compat: str | None) -> None:
    """Refuse anything but the default (None) and "authors"."""
    if compat not in (None, "authors"):
        raise ValueError(f"compat must be None or 'authors', got {compat!r}")
