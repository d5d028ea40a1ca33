"""The BERT text encoder of BiomedCLIP, with the key names of its files.

`open_clip` builds it through `transformers`, which asks a hub for a configuration; here the sizes
come from the weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from typing_extensions import override

from segkit.errors import CheckpointError

HEAD_WIDTH = 64
"""Of every published BERT; the files do not say it."""
EPSILON = 1e-12
_LAYER = "text.transformer.encoder.layer."

Hidden = Float[Tensor, "texts context dim"]


@dataclass(frozen=True, slots=True)
class BertSizes:
    """Sizes of a BERT and of the two projections behind it."""

    vocabulary: int
    width: int
    depth: int
    mlp: int
    positions: int
    types: int
    hidden: int
    features: int

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "BertSizes":
        """Read the sizes from a state dict in the naming of `open_clip`.

        Raises:
            CheckpointError: It holds no BERT with two projections.
        """
        start = "text.transformer.embeddings."
        try:
            vocabulary, width = tensors[f"{start}word_embeddings.weight"].shape
            hidden = len(tensors["text.proj.0.weight"])
            return cls(
                vocabulary,
                width,
                1 + max(int(name[len(_LAYER) :].split(".")[0]) for name in tensors
                        if name.startswith(_LAYER)),
                len(tensors[f"{_LAYER}0.intermediate.dense.weight"]),
                len(tensors[f"{start}position_embeddings.weight"]),
                len(tensors[f"{start}token_type_embeddings.weight"]),
                hidden,
                len(tensors["text.proj.2.weight"]),
            )  # fmt: skip
        except (KeyError, ValueError) as error:
            raise CheckpointError(
                f"holds no BERT text encoder with two projections ({error} is missing)",
                fix="segkit reads BiomedCLIP and models of its layout",
            ) from error


class SumAndNorm(nn.Module):
    """Linear layer whose output is added to a stream, which is then normalised."""

    def __init__(self, inner: int, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, width)
        self.LayerNorm = nn.LayerNorm(width, eps=EPSILON)

    @override
    def forward(self, inner: Tensor, stream: Hidden) -> Hidden:
        return self.LayerNorm(stream + self.dense(inner))


class BertAttention(nn.Module):
    """Attention between all tokens of a text."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.self = nn.ModuleDict(
            {name: nn.Linear(width, width) for name in ("query", "key", "value")}
        )
        self.output = SumAndNorm(width, width)
        self.heads = max(width // HEAD_WIDTH, 1)

    @override
    def forward(self, x: Hidden, seen: Tensor) -> Hidden:
        """`seen` [texts 1 1 context] says which tokens are no padding."""
        query, key, value = (
            self.self[name](x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        return self.output(mixed.transpose(1, 2).flatten(2), x)


class BertLayer(nn.Module):
    """Attention and MLP, each normalised after its sum with the input."""

    def __init__(self, width: int, mlp: int) -> None:
        super().__init__()
        self.attention = BertAttention(width)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, mlp)})
        self.output = SumAndNorm(mlp, width)

    @override
    def forward(self, x: Hidden, seen: Tensor) -> Hidden:
        x = self.attention(x, seen)
        return self.output(F.gelu(self.intermediate["dense"](x)), x)


class BertEmbeddings(nn.Module):
    """Sum of what a token is, where it stands and (always the first) type of text."""

    def __init__(self, sizes: BertSizes) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(sizes.vocabulary, sizes.width)
        self.position_embeddings = nn.Embedding(sizes.positions, sizes.width)
        self.token_type_embeddings = nn.Embedding(sizes.types, sizes.width)
        self.LayerNorm = nn.LayerNorm(sizes.width, eps=EPSILON)

    @override
    def forward(self, tokens: Int[Tensor, "texts context"]) -> Hidden:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.word_embeddings(tokens) + self.position_embeddings(places)
        return self.LayerNorm(x + self.token_type_embeddings(torch.zeros_like(tokens)))


class Bert(nn.Module):
    """Embeddings and layers; token 0 is padding."""

    def __init__(self, sizes: BertSizes) -> None:
        super().__init__()
        self.embeddings = BertEmbeddings(sizes)
        layers = (BertLayer(sizes.width, sizes.mlp) for _ in range(sizes.depth))
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})

    @override
    def forward(self, tokens: Int[Tensor, "texts context"]) -> Hidden:
        x, seen = self.embeddings(tokens), (tokens != 0)[:, None, None]
        layers = self.encoder["layer"]
        assert isinstance(layers, nn.ModuleList)
        for layer in layers:
            x = layer(x, seen)
        return x


class BertText(nn.Module):
    """BERT, its first token, and two projections with a GELU between: text features."""

    def __init__(self, sizes: BertSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.transformer = Bert(sizes)
        self.proj = nn.Sequential(
            nn.Linear(sizes.width, sizes.hidden, bias=False),
            nn.GELU(),
            nn.Linear(sizes.hidden, sizes.features, bias=False),
        )

    @override
    def forward(self, tokens: Int[Tensor, "texts context"]) -> Float[Tensor, "texts features"]:
        return self.proj(self.transformer(tokens)[:, 0])


class BertClip(nn.Module):
    """An image encoder beside a BERT: the layout of BiomedCLIP."""

    def __init__(self, visual: nn.Module, text: BertText) -> None:
        super().__init__()
        self.visual, self.text = visual, text
        self.logit_scale = nn.Parameter(torch.zeros(()))

    def encode_text(self, tokens: Int[Tensor, "texts context"]) -> Float[Tensor, "texts features"]:
        """Text features; not normalised."""
        return self.text(tokens)
