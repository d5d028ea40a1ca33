"""A second stream made of the image's amplitude spectrum, added after each block (I-MedSAM)."""

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from segkit.adapters.base import Adapter, Compat, require_compat
from segkit.typing import BackboneSpec, Grid, Image, Tokens

_AUTHORS_SHARE = 0.5
Plane = Float[Tensor, "n 1 height width"]


class Frequency(Adapter):
    """Embed the amplitude spectrum with the frozen patch embedding and add it after each block.

    Source: "I-MedSAM" (Wei et al., ECCV 2024, arXiv 2311.17081), section 3.2. The spectrum of the
    grey image, zero frequency in the middle, is a picture of its own: it goes through the frozen
    patch embedding (and position embedding, in a ViT) and from block to block through a norm and a
    bottleneck of `hidden` channels, y = norm(f), f = y + W2 gelu(W1 y). Where the width or the
    stride changes (SAM 2) a trained projection follows it. The spectrum is resized where the
    backbone enlarges its input first (the volumetric lift).

    Differences of the default: the amplitude is on a logarithmic scale (without it, all but a few
    hundred bins are black); grey is the mean of the channels; each block adds its share through
    a gate that starts at zero; the norms are trained. `compat="authors"`: red channel, linear
    scale, share 0.5 from the start, fixed norms.

    Example:
        >>> backbone = SamBackbone.tiny(partial(Frequency, hidden=2))
        >>> sum(p.numel() for p in backbone.adapter.parameters())
        681
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, spec: BackboneSpec, *, hidden: int = 4, compat: Compat | None = None
    ) -> None:
        super().__init__(spec)
        require_compat(compat)
        if hidden < 1:
            raise ValueError(f"hidden must be >= 1, got {hidden}")
        self.compat, self.steps = compat, _steps(spec)
        self._frozen: tuple[Any, ...] = ()
        self.layers = nn.ModuleList(
            FrequencyBottleneck(block.dim_out, hidden, compat=compat) for block in spec.blocks
        )
        self.changes = nn.ModuleDict(
            {
                str(index): nn.Linear(step.dim_in, step.dim_out)
                for index, step in enumerate(self.steps)
                if step.dim_in != step.dim_out
            }
        )
        if compat is None:
            self.gates = nn.Parameter(torch.zeros(len(spec.blocks)))
        for name, value in (("mean", spec.pixel_mean), ("std", spec.pixel_std)):
            self.register_buffer(name, torch.tensor(value).view(-1, 1, 1) / 255, persistent=False)

    @override
    def attach(self, encoder: nn.Module) -> None:
        # in a tuple, so that the frozen layers do not become part of this module
        self._frozen = (_patch_embedding(encoder), encoder)

    @override
    def prepare(self, image: Image, tokens: Tokens, grid: Grid) -> tuple[Tokens, ...]:
        """Compute what every block receives: the stream never reads the image tokens."""
        patches = self._frozen[0]
        side = getattr(patches, "stride", patches.proj.stride[0])  # the lift's is finer than SAM's
        picture, size = self.spectrum(image), (tokens.shape[1] * side, tokens.shape[2] * side)
        if picture.shape[2:] != size:
            picture = F.interpolate(picture, size=size, mode="bilinear")
        stream = patches(((picture - self.mean) / self.std).to(image.dtype))
        stream = stream + self._positions(stream)
        streams = []
        for index, (step, layer) in enumerate(zip(self.steps, self.layers, strict=True)):
            if step.pool > 1:
                maps = F.avg_pool2d(stream.permute(0, 3, 1, 2), step.pool)
                stream = maps.permute(0, 2, 3, 1)
            if step.dim_in != step.dim_out:
                stream = self.changes[str(index)](stream)
            stream = layer(stream)
            streams.append(stream)
        return tuple(streams)

    @override
    def after(self, index: int, tokens: Tokens, state: object) -> Tokens:
        share = _AUTHORS_SHARE if self.compat else self.gates[index]
        return tokens + share * cast(tuple[Tokens, ...], state)[index]

    def spectrum(self, image: Image) -> Plane:
        """Amplitude of the grey image in [0, 1] per image, zero frequency in the middle."""
        # there is no half-precision Fourier transform on CPU; numpy, in the released code, has
        # double precision only
        is_double = image.dtype == torch.float64 or self.compat == "authors"
        exact = image.double() if is_double else image.float()
        pixels = (exact * self.std.to(exact) + self.mean.to(exact)) * 255
        grey = pixels[:, :1] if self.compat else pixels.mean(1, keepdim=True)
        amplitude = torch.fft.fftshift(torch.fft.fft2(grey).abs(), dim=(-2, -1))
        if self.compat is None:
            amplitude = amplitude.log1p()
        low, high = amplitude.amin((2, 3), keepdim=True), amplitude.amax((2, 3), keepdim=True)
        return (amplitude - low) / (high - low).clamp_min(torch.finfo(exact.dtype).tiny)

    def _positions(self, stream: Tokens) -> Tokens | float:
        """Frozen position embedding of a ViT at the size of the stream; 0 without one."""
        positions = getattr(self._frozen[1], "pos_embed", None)
        if positions is None or positions.shape[1:3] == stream.shape[1:3]:
            return 0.0 if positions is None else positions
        maps = positions.permute(0, 3, 1, 2)
        size = (stream.shape[1], stream.shape[2])
        return F.interpolate(maps, size=size, mode="bicubic").permute(0, 2, 3, 1)


class FrequencyBottleneck(nn.Module):
    """Norm, then a residual bottleneck of `hidden` channels."""

    def __init__(self, dim: int, hidden: int, *, compat: Compat | None = None) -> None:
        super().__init__()
        # the released code never trains this norm: it keeps scale 1 and shift 0
        self.norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=compat is None)
        self.down = nn.Linear(dim, hidden)
        self.up = nn.Linear(hidden, dim)

    @override
    def forward(self, stream: Tokens) -> Tokens:
        return self.bottleneck(self.norm(stream))

    def bottleneck(self, x: Tokens) -> Tokens:
        """Return x + W2 gelu(W1 x)."""
        return x + self.up(F.gelu(self.down(x)))


@dataclass(frozen=True, slots=True)
class _Step:
    """How the stream changes before a block: mean over `pool` x `pool` tokens, new width."""

    dim_in: int
    dim_out: int
    pool: int


def _steps(spec: BackboneSpec) -> tuple[_Step, ...]:
    first = spec.blocks[0]
    steps, dim, stride = [], first.dim_in, first.stride
    for block in spec.blocks:
        steps.append(_Step(dim, block.dim_out, block.stride // stride))
        dim, stride = block.dim_out, block.stride
    return tuple(steps)


def _patch_embedding(encoder: nn.Module) -> nn.Module:
    """Frozen layer from pictures to tokens `[n rows cols dim]`."""
    for name, module in encoder.named_modules():
        if name.rpartition(".")[2] == "patch_embed":
            return module
    raise ValueError("the encoder has no layer 'patch_embed' that the spectrum could go through")
