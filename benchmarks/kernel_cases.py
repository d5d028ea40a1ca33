"""Rows K1 to K10: inputs, contenders and floors of each kernel, at published and at tiny sizes."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import kernel_peers as peers
from benchmarks.gpu import Call, Case
from segkit.kernels import attention, dilated, field, highpass, prompted, spatial3d
from segkit.kernels.dilated import Branch

_STAGES = ((256, 112, 2), (128, 224, 3), (64, 448, 16), (32, 896, 3))
"""Side, width and number of blocks of each stage of Hiera-B+ at 1024 x 1024."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Where and how the cases run; a dry run has tiny sizes and does not compile."""

    device: torch.device
    dtype: torch.dtype
    is_dry: bool

    def draw(self, *shape: int, scale: float = 0.5) -> Tensor:
        """Random numbers; zeros would run faster than data."""
        made = torch.randn(shape, generator=torch.Generator().manual_seed(len(shape) + shape[0]))
        return (scale * made).to(self.device, self.dtype)

    def layer(self, outs: int, ins: int) -> tuple[Tensor, Tensor]:
        """Weight and bias of a linear layer at the scale of usual initialisation."""
        return self.draw(outs, ins, scale=ins**-0.5), self.draw(outs, scale=0.1)

    @property
    def n_bytes(self) -> int:
        """Of a number."""
        return self.dtype.itemsize

    def compiled(self, call: Call) -> Call:
        """Torch's compiler, or its tracing alone."""
        return peers.compiled(call, is_dry=self.is_dry)


def all_cases(setting: Setting) -> Iterator[Case]:
    """Every row in order."""
    for make in (_dilated, _spatial, _depthwise, _high_pass, _attention, _windows, _field):
        yield from make(setting)
    yield from _prompted(setting)


def saved_bytes(call: Call, inputs: Mapping[int, Tensor] | list[Tensor]) -> int:
    """Bytes of activations that autograd keeps for the backward pass; parameters do not count."""
    first, *rest = list(inputs.values()) if isinstance(inputs, Mapping) else inputs
    leaves = [first.detach().requires_grad_(), *(x.detach().requires_grad_() for x in rest)]
    parameters = {x.untyped_storage().data_ptr() for x in leaves[1:]}
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = call(*leaves)
    del out
    return sum(kept.values())


def dilated_call(function: Any, **options: Any) -> Call:
    """DD-SAM2's bottleneck as a function of tensors."""

    def call(x: Tensor, wd: Tensor, bd: Tensor, *rest: Tensor) -> Tensor:
        w1, b1, w3, b3, wu, bu = rest
        branches = [Branch(w1, b1, 1), Branch(w3, b3, 3)]
        found = function(x, (wd, bd), branches, (wu, bu), **options)
        assert isinstance(found, Tensor)
        return found

    return call


def dilated_inputs(setting: Setting, batch: int, side: int, dim: int) -> list[Tensor]:
    """Tokens and parameters of one adapter."""
    hidden = dim // 2
    convs = [
        part
        for _ in range(2)
        for part in (setting.draw(hidden, 1, 3, 3, scale=0.3), setting.draw(hidden, scale=0.1))
    ]
    return [
        setting.draw(batch, side, side, dim), *setting.layer(hidden, dim), *convs,
        *setting.layer(dim, hidden),
    ]  # fmt: skip


def _dilated(setting: Setting) -> Iterator[Case]:
    stages = ((6, 8, 1),) if setting.is_dry else _STAGES
    fused = dilated_call(dilated.dilated_bottleneck, impl="triton")
    eager = dilated_call(dilated.reference)
    theirs, absent = peers.released("DD_SAM2", peers.dilated)
    batch = 1 if setting.is_dry else 8
    for grads, row, target in (
        (False, "K1", ">= 3.5x eager, >= 1.6x compile, floor >= 0.50"),
        (True, "K2", ">= 4x eager, >= 1.8x compile, floor >= 0.60"),
    ):
        for side, dim, blocks in stages:
            tokens = batch * side**2
            moved = (5 if grads else 2) * tokens * dim + (2 * tokens * dim if grads else 0)
            yield Case(
                row, f"dilated {side}x{side}, {dim}, batch {batch} (x{blocks} blocks)",
                dilated_inputs(setting, batch, side, dim),
                {"segkit": fused, "eager": eager, "compile": setting.compiled(eager), **theirs},
                eager, target, n_bytes=moved * setting.n_bytes,
                flop=(3.5 if grads else 1) * 2 * tokens * dim**2, grads=grads, absent=absent,
            )  # fmt: skip


def _spatial(setting: Setting) -> Iterator[Case]:
    side, dim = (4, 8) if setting.is_dry else (32, 768)
    hidden, tokens = dim // 2, side**3
    inputs = [
        setting.draw(1, side, side, side, dim), *setting.layer(hidden, dim),
        setting.draw(hidden, 1, 3, 3, 3, scale=0.2), setting.draw(hidden, scale=0.1),
        *setting.layer(dim, hidden),
    ]  # fmt: skip

    def of(function: Any, **options: Any) -> Call:
        def call(x: Tensor, wd: Tensor, bd: Tensor, *rest: Tensor) -> Tensor:
            wc, bc, wu, bu = rest
            found = function(x, (wd, bd), (wc, bc), (wu, bu), ends_with_relu=True, **options)
            assert isinstance(found, Tensor)
            return found

        return call

    eager = of(spatial3d.reference)
    theirs, absent = peers.released("SAM3D_ADAPTER", peers.spatial)
    for grads in (False, True):
        yield Case(
            "K4", f"spatial {side}^3, {dim} -> {hidden}" + (", and backward" if grads else ""),
            inputs,
            {
                "segkit": of(spatial3d.spatial_bottleneck, impl="triton"), "eager": eager,
                "compile": setting.compiled(eager), **theirs,
            },
            eager, f">= {5 if grads else 4}x authors, >= 2x compile, floor >= 0.55",
            n_bytes=(7 if grads else 2) * tokens * dim * setting.n_bytes,
            flop=(3.5 if grads else 1) * 4 * tokens * dim * hidden, grads=grads, absent=absent,
        )  # fmt: skip


def _depthwise(setting: Setting) -> Iterator[Case]:
    side, dim = (4, 8) if setting.is_dry else (32, 384)
    inputs = [
        setting.draw(1, side, side, side, dim), setting.draw(dim, 1, 3, 3, 3, scale=0.2),
        setting.draw(dim, scale=0.1),
    ]  # fmt: skip

    def usual(x: Tensor, weight: Tensor, bias: Tensor, layout: Any = None) -> Tensor:
        maps = x.permute(0, 4, 1, 2, 3)
        maps = maps.contiguous() if layout is None else maps.contiguous(memory_format=layout)
        return F.conv3d(maps, weight, bias, padding=1, groups=len(bias)).permute(0, 2, 3, 4, 1)

    def fused(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        from segkit.kernels.triton.depthwise import depthwise

        rates = torch.ones(1, dtype=torch.int32, device=x.device)
        taps = weight.flatten(1).t().contiguous()[None]
        return depthwise(x, taps, bias[None], rates, "none")

    yield Case(
        "K5", f"depthwise 3x3x3 alone, {side}^3, {dim}", inputs,
        {
            "segkit": fused, "channels first": usual,
            "channels last": partial(usual, layout=torch.channels_last_3d),
            "compile": setting.compiled(usual),
        },
        usual, ">= 3x best, floor >= 0.7", n_bytes=2 * side**3 * dim * setting.n_bytes,
    )  # fmt: skip


def _high_pass(setting: Setting) -> Iterator[Case]:
    side = 16 if setting.is_dry else 1024
    batch, half = (1, side // 4) if setting.is_dry else (8, side // 4)
    image = setting.draw(batch, 3, side, side)

    def of(function: Any, **options: Any) -> Call:
        return lambda x: function(x, (half, half), **options)

    yield Case(
        "K6", f"high pass {side}x{side}, batch {batch}", [image],
        {
            "segkit": of(highpass.high_pass, impl="triton"), "eager fft2": of(highpass.reference),
            "rfft2": of(highpass.by_real_transform),
            "rfft2 compile": setting.compiled(of(highpass.by_real_transform)),
        },
        of(highpass.reference), ">= 2x rfft2 compile, floor >= 0.3",
        n_bytes=image.numel() * (setting.n_bytes + 4), flop=batch * 3 * 4 * side**3,
    )  # fmt: skip


def _relative(setting: Setting, n: int, heads: int, side: int, width: int) -> list[Tensor]:
    qkv = [setting.draw(n, heads, side * side, width, scale=1.0) for _ in range(3)]
    return [*qkv, *(setting.draw(side, side, width, scale=0.1) for _ in range(2))]


def _grid(function: Any, **options: Any) -> Call:
    def call(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
        found = function(q, k, v, (rows, cols), **options)
        assert isinstance(found, Tensor)
        return found

    return call


def _attention(setting: Setting) -> Iterator[Case]:
    side = 5 if setting.is_dry else 64
    theirs, absent = peers.released("SAM_FAST", peers.fast_attention)
    for width, heads in ((64, 12), (80, 16)):
        for n in (1,) if setting.is_dry else (1, 8):
            for grads in (False, True):
                yield _positioned(
                    setting, "K7", n, 2 if setting.is_dry else heads, side, width, grads,
                    {} if grads else theirs, absent if not grads else {"authors": "forward only"},
                )  # fmt: skip


def _windows(setting: Setting) -> Iterator[Case]:
    side, n = (4, 2) if setting.is_dry else (14, 25 * 8)
    for grads in (False, True):
        heads = 2 if setting.is_dry else 12
        yield _positioned(setting, "K8", n, heads, side, 64, grads, {}, {})


def _positioned(
    setting: Setting,
    row: str,
    n: int,
    heads: int,
    side: int,
    width: int,
    grads: bool,
    theirs: Mapping[str, Call],
    absent: Mapping[str, str],
) -> Case:
    tokens = side * side
    flop = (3.5 if grads else 1) * 4 * n * heads * tokens**2 * width
    moved = (12 if grads else 4) * n * heads * tokens * width * setting.n_bytes
    ours = {
        "segkit": _grid(attention.grid_attention, impl="triton"),
        "SDPA + mask": peers.masked_attention,
        "flex": peers.flex_attention(is_dry=setting.is_dry),
        "wider heads": _grid(attention.widened),
    }
    eager = {} if tokens * n > 4096 * 2 else {"eager": _grid(attention.reference)}
    goal = ">= 1.5x best" if grads else ">= 1.15x best, floor >= 0.55"
    return Case(
        row, f"attention {side}x{side}, {heads} heads of {width}, batch {n}"
        + (", and backward" if grads else ""),
        _relative(setting, n, heads, side, width), {**ours, **eager, **theirs},
        _grid(_sliced), ">= 1.3x best" if row == "K8" else goal,
        n_bytes=moved, flop=flop, grads=grads, absent=absent,
    )  # fmt: skip


def _sliced(q: Tensor, k: Tensor, v: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Definition head by head: in float64 the scores of all heads do not fit a card."""
    parts = [
        attention.reference(q[:, h : h + 1], k[:, h : h + 1], v[:, h : h + 1], tables)
        for h in range(q.shape[1])
    ]
    return torch.cat(parts, dim=1)


def _field(setting: Setting) -> Iterator[Case]:
    side, width = (6, 8) if setting.is_dry else (512, 256)
    axis = (2 * torch.arange(side, device=setting.device) + 1) / side - 1
    points, codes = torch.cartesian_prod(axis, axis), 63
    cells, coarse = (5, 3) if setting.is_dry else (256, 64)
    inputs = [
        setting.draw(1, 32, cells, cells), setting.draw(1, 256, coarse, coarse),
        setting.draw(side * side, codes), *setting.layer(4 * width, 288 + codes),
        *setting.layer(2 * width, 4 * width),
    ]  # fmt: skip
    # positions of pixels are constants of the case, exact in every type
    rows = side * side

    def fused(c: Tensor, p: Tensor, dense: Tensor, *layers: Tensor) -> Tensor:
        pairs = (layers[:2], layers[2:])
        return field.field_layers(c, p, points, dense, pairs, impl="triton")

    def eager(c: Tensor, p: Tensor, dense: Tensor, *layers: Tensor) -> Tensor:
        x = field.reference(c, p, points, dense, layers[:2]).flatten(0, 1).relu()
        return F.linear(x, *layers[2:]).relu()

    flop = 2 * rows * (4 * width * (288 + codes) + 8 * width**2)
    yield Case(
        "K9", f"field, first two layers, {side}x{side} points", inputs,
        {"segkit": fused, "eager": eager, "compile": setting.compiled(eager)},
        eager, ">= 2x compile, floor >= 0.5", flop=flop,
        n_bytes=rows * (codes + 2 * width) * setting.n_bytes,
    )  # fmt: skip


def _prompted(setting: Setting) -> Iterator[Case]:
    n, tokens, dim, inner = (1, 40, 16, 4) if setting.is_dry else (8, 4096, 768, 20)
    inputs = [
        setting.draw(n, tokens, dim), *setting.layer(inner, dim), setting.draw(10, inner),
        *setting.layer(dim, inner), setting.draw(1),
    ]  # fmt: skip

    def of(function: Any, **options: Any) -> Call:
        def call(x: Tensor, wd: Tensor, bd: Tensor, asked: Tensor, *rest: Tensor) -> Tensor:
            wu, bu, gate = rest
            found = function(x, (wd, bd), asked, (wu, bu), gate, **options)
            assert isinstance(found, Tensor)
            return found

        return call

    def fast(x: Tensor, down: Any, asked: Tensor, up: Any, gate: Tensor) -> Tensor:
        """With torch's fused attention, both ways."""
        inner = F.linear(x, *down)
        inner = inner * torch.sigmoid(1.702 * inner)
        found = F.scaled_dot_product_attention(asked.expand(len(x), -1, -1), inner, inner)
        return x + gate * F.linear(F.scaled_dot_product_attention(inner, found, found), *up)

    eager = of(prompted.reference)
    for grads in (False, True):
        yield Case(
            "K10", f"prompts {n} x {tokens} tokens, {dim}" + (", and backward" if grads else ""),
            inputs,
            {
                "segkit": of(prompted.prompted_bottleneck, impl="triton"), "eager": eager,
                "compile": setting.compiled(eager), "compile, SDPA": setting.compiled(of(fast)),
            },
            eager, ">= 3x eager, >= 1.2x compile, SDPA",
            n_bytes=(8 if grads else 3) * n * tokens * dim * setting.n_bytes,
            flop=(3 if grads else 1) * 4 * n * tokens * dim * inner, grads=grads,
        )  # fmt: skip


def sizes_note() -> str:
    """What the sums over stages mean."""
    blocks = math.fsum(n for *_, n in _STAGES)
    return f"K1 and K2: one row per stage of Hiera-B+, {blocks:.0f} blocks in all."
