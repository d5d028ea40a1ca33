"""The image classifier that DVPT's authors released: CLIP's ViT with gated bottlenecks."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from segkit.adapters.dvpt import GatedBottleneck
from segkit.backbones.checkpoints import KeyReport, read_weights
from segkit.errors import CheckpointError

CLIP_BACKBONE = "clip_vit_b_16"
_TRAINED = ("bottlenecks.", "prompts", "prompt_positions", "head.")


@dataclass(frozen=True, slots=True)
class ClassifierSizes:
    """All numbers of the classifier; the defaults are those of CLIP ViT-B/16 at 288 pixels."""

    image_size: int = 288
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    out_dim: int = 512
    classes: int = 5
    prompts: int = 50
    hidden: int = 20
    share: int = 3


class DvptClassifier(nn.Module):
    """Class logits of pictures, as the released DVPT code computes them.

    Source: "DVPT" (He et al., Neural Networks 185, 2025), released code for CLIP ViT-B/16. Prompts
    are prepended to the tokens; beside the MLP of each block stands a gated bottleneck, shared by
    three blocks; the outputs of prompts and class token are averaged. The released blocks also
    compute an attention whose result they discard; it is left out. Pictures `[n 3 h w]` in [0, 1]
    at the native size. `segkit.adapters.DynamicPrompts` is the form for segmentation.

    Example:
        >>> sizes = ClassifierSizes(32, 16, width=16, depth=3, heads=2, out_dim=8, prompts=4)
        >>> DvptClassifier(sizes)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 5])
    """

    bottlenecks: Any
    blocks: Any

    def __init__(self, sizes: ClassifierSizes) -> None:
        super().__init__()
        self.sizes, width = sizes, sizes.width
        cells = (sizes.image_size // sizes.patch_size) ** 2
        self.patches = nn.Conv2d(3, width, sizes.patch_size, sizes.patch_size, bias=False)
        self.class_token = nn.Parameter(width**-0.5 * torch.randn(width))
        self.positions = nn.Parameter(width**-0.5 * torch.randn(cells + 1, width))
        self.prompts = nn.Parameter(torch.randn(1, sizes.prompts, width))
        self.prompt_positions = nn.Parameter(width**-0.5 * torch.randn(sizes.prompts, width))
        self.norm_first, self.norm_last = nn.LayerNorm(width), nn.LayerNorm(width)
        self.blocks = nn.ModuleList(_Block(width, sizes.heads) for _ in range(sizes.depth))
        self.bottlenecks = nn.ModuleList(
            GatedBottleneck(width, sizes.hidden) for _ in range(0, sizes.depth, sizes.share)
        )
        self.project = nn.Parameter(width**-0.5 * torch.randn(width, sizes.out_dim))
        self.head = nn.Linear(sizes.out_dim, sizes.classes, bias=False)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith(_TRAINED))

    @override
    def forward(self, image: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n classes"]:
        cells = self.patches(image).flatten(2).transpose(1, 2)
        ones = cells.new_ones(len(cells), 1, 1)
        tokens = torch.cat([ones * self.prompts, ones * self.class_token, cells], dim=1)
        tokens = tokens + torch.cat([self.prompt_positions, self.positions])
        tokens = self.norm_first(tokens)
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, self.bottlenecks[index // self.sizes.share])
        seen = self.norm_last(tokens[:, : self.sizes.prompts + 1]).mean(dim=1)
        return self.head(seen @ self.project)

    def parts(self) -> dict[str, nn.Module]:
        """Modules by part: what is trained, the head, and the frozen encoder."""
        prompts = nn.ParameterList([self.prompts, self.prompt_positions])
        adapter = nn.ModuleList([self.bottlenecks, prompts])
        return {"adapter": adapter, "head": self.head, "encoder": self}


class _Block(nn.Module):
    """Pre-norm transformer block with something beside its MLP."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.lin1, self.lin2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    @override
    def forward(
        self, tokens: Float[Tensor, "n tokens dim"], beside: nn.Module
    ) -> Float[Tensor, "n tokens dim"]:
        x = self.norm1(tokens)
        tokens = tokens + self.attn(x, x, x, need_weights=False)[0]
        hidden = self.lin1(self.norm2(tokens))
        return tokens + self.lin2(hidden * torch.sigmoid(1.702 * hidden)) + beside(tokens)


def load_dvpt(path: str | Path) -> DvptClassifier:
    """Build a classifier from a file that `segkit convert --from dvpt` wrote.

    Raises:
        CheckpointError: The file is damaged or of another model.
    """
    tensors = read_weights(path).tensors
    with torch.device("meta"):
        model = DvptClassifier(find_sizes(tensors, Path(path)))
    KeyReport.compare(model.state_dict(), tensors).raise_if_any(path)
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def find_sizes(tensors: Mapping[str, Tensor], path: Path) -> ClassifierSizes:
    """Sizes of the classifier whose weights these are.

    Raises:
        CheckpointError: A tensor that tells a size is missing or mis-shaped.
    """
    try:
        width, _, patch, _ = tensors["patches.weight"].shape
        cells, _ = tensors["positions"].shape
        _, prompts, _ = tensors["prompts"].shape
        classes, out_dim = tensors["head.weight"].shape
        hidden, _ = tensors["bottlenecks.0.down.weight"].shape
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"this is no DVPT classifier on CLIP's ViT: {error}", path=path, code="keys_differ"
        ) from error
    depth = len({key.split(".")[1] for key in tensors if key.startswith("blocks.")})
    side = patch * round((cells - 1) ** 0.5)
    # CLIP's heads have 64 channels
    heads = max(1, width // 64)
    return ClassifierSizes(side, patch, width, depth, heads, out_dim, classes, prompts, hidden)
