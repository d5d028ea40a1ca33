"""Spatial adapter around each block: a bottleneck that looks along the depth of a volume."""

from typing import Literal, cast, get_args

from torch import Tensor, nn
from typing_extensions import override

from segkit.adapters.base import Adapter, Compat, require_compat
from segkit.kernels.spatial3d import spatial_bottleneck
from segkit.typing import BackboneSpec, Grid, Image, Tokens

Site = Literal["before", "after"]


class Spatial(Adapter):
    """Add a depthwise 3x3x3 convolution over (depth, rows, columns) inside a bottleneck.

    Source: "3DSAM-adapter" (Gong et al., Medical Image Analysis 2024, arXiv 2306.13465). Volumes
    arrive as slices folded into the batch; the depth comes from the grid, so any depth and any
    number of volumes work, and a picture is a volume of one slice. Differences: the last
    projection starts at zero and has no ReLU after it, so training starts from the frozen model
    (`compat="authors"`: ReLU and default initialisation). `site="before"` is what the released code
    does; the figure of the paper draws the adapter behind the attention.

    Example:
        >>> backbone = SamBackbone.tiny(Spatial)
        >>> backbone(torch.rand(6, 3, 64, 64), Grid((3, 64, 64))).levels[0].shape
        torch.Size([6, 32, 8, 8])
    """

    def __init__(
        self,
        spec: BackboneSpec,
        *,
        ratio: float = 0.5,
        site: Site = "before",
        compat: Compat | None = None,
    ) -> None:
        super().__init__(spec)
        require_compat(compat)
        if not 0 < ratio <= 1:
            raise ValueError(f"ratio must be in (0, 1], got {ratio}")
        if site not in get_args(Site):
            raise ValueError(f"site must be one of {get_args(Site)}, got {site!r}")
        self.site = site
        widths = [block.dim_in if site == "before" else block.dim_out for block in spec.blocks]
        self.layers = nn.ModuleList(
            SpatialBottleneck(width, max(1, int(width * ratio)), compat=compat) for width in widths
        )

    @property
    @override
    def untouched(self) -> int:
        return 0 if self.site == "before" else 1

    @override
    def prepare(self, image: Image, tokens: Tokens, grid: Grid) -> int:
        return grid.depth

    @override
    def before(self, index: int, tokens: Tokens, state: object) -> Tokens:
        return self._edit(index, tokens, state) if self.site == "before" else tokens

    @override
    def after(self, index: int, tokens: Tokens, state: object) -> Tokens:
        return self._edit(index, tokens, state) if self.site == "after" else tokens

    def _edit(self, index: int, tokens: Tokens, state: object) -> Tokens:
        return self.layers[index](tokens, cast(int, state))


class SpatialBottleneck(nn.Module):
    """Linear, ReLU, depthwise 3x3x3 convolution, ReLU, linear, added to the tokens.

    Kernels lie in array order (depth, rows, columns).
    """

    def __init__(self, dim: int, hidden: int, *, compat: Compat | None = None) -> None:
        super().__init__()
        self.compat = compat
        self.down = nn.Linear(dim, hidden)
        self.conv = nn.Conv3d(hidden, hidden, 3, padding=1, groups=hidden)
        self.up = nn.Linear(hidden, dim)
        if compat is None:
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)

    @override
    def forward(self, tokens: Tokens, depth: int) -> Tokens:
        """Edit the tokens of volumes of `depth` slices each."""
        volumes = spatial_bottleneck(
            tokens.unflatten(0, (-1, depth)),
            (self.down.weight, self.down.bias),
            (self.conv.weight, cast(Tensor, self.conv.bias)),
            (self.up.weight, self.up.bias),
            ends_with_relu=self.compat == "authors",
        )
        return volumes.flatten(0, 1)
