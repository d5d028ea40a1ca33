"""Attention in shifted windows of a volume, for any grid, without a tokens x tokens matrix."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from segment_anything.modeling.image_encoder import Attention
from torch import Tensor

_FAR = -100.0  # added to scores between regions that do not belong together; softmax gives 0
Volumes = Float[Tensor, "volumes depth rows cols dim"]
Table = Float[Tensor, "rows channels"]


@dataclass(frozen=True, slots=True)
class Axis:
    """Windows along one axis: `count` windows of `size` tokens over `length`, moved by `shift`."""

    length: int
    count: int
    size: int
    shift: int

    @classmethod
    def plan(cls, length: int, window: int, *, is_shifted: bool) -> "Axis":
        """Cut an axis into as few windows of at most `window` tokens as possible, equally long."""
        count = -(-length // window)
        size = -(-length // count)
        return cls(length, count, size, size // 2 if is_shifted and count > 1 else 0)

    @property
    def pad(self) -> int:
        """Tokens behind the end that fill the last window."""
        return self.count * self.size - self.length

    def regions(self, device: torch.device) -> Float[Tensor, "count size regions"] | None:
        """One-hot code of what belongs together inside a window; None if all of it does.

        A shifted window may hold both ends of the axis, and padding.
        """
        total = self.count * self.size
        place = (torch.arange(total, device=device) + self.shift) % total
        region = (place < self.shift).long() + 2 * (place >= self.length).long()
        present = [0, *([1] if self.shift else []), *([2] if self.pad else [])]
        if len(present) == 1:
            return None
        codes = region[:, None] == torch.tensor(present, device=device)
        return codes.float().view(self.count, self.size, len(present))


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """Windows of a grid (depth, rows, columns)."""

    axes: tuple[Axis, Axis, Axis]
    window: int

    @classmethod
    def of(cls, grid: tuple[int, int, int], window: int, *, is_shifted: bool) -> "WindowPlan":
        """Plan all axes; along an axis with a single window nothing is shifted."""
        d, h, w = (Axis.plan(length, window, is_shifted=is_shifted) for length in grid)
        return cls((d, h, w), window)

    def split(self, x: Volumes) -> Float[Tensor, "windows tokens dim"]:
        """Pad, shift and cut; windows of a volume follow each other."""
        d, h, w = self.axes
        x = F.pad(x, (0, 0, 0, w.pad, 0, h.pad, 0, d.pad)) if self._pads else x
        if any(axis.shift for axis in self.axes):
            x = x.roll([-axis.shift for axis in self.axes], (1, 2, 3))
        x = x.view(-1, d.count, d.size, h.count, h.size, w.count, w.size, x.shape[-1])
        return x.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(0, 3).flatten(1, 3)

    def join(self, x: Float[Tensor, "windows tokens dim"]) -> Volumes:
        """Undo `split`."""
        d, h, w = self.axes
        x = x.view(-1, d.count, h.count, w.count, d.size, h.size, w.size, x.shape[-1])
        x = x.permute(0, 1, 4, 2, 5, 3, 6, 7).flatten(5, 6).flatten(3, 4).flatten(1, 2)
        if any(axis.shift for axis in self.axes):
            x = x.roll([axis.shift for axis in self.axes], (1, 2, 3))
        return x[:, : d.length, : h.length, : w.length] if self._pads else x

    def codes(self, device: torch.device) -> Float[Tensor, "windows tokens codes"] | None:
        """Codes of the regions of all windows of one volume; None if nothing is kept apart."""
        counts = [axis.count for axis in self.axes]
        sizes = [axis.size for axis in self.axes]
        parts = []
        for number, axis in enumerate(self.axes):
            if (code := axis.regions(device)) is None:
                continue
            shape = [1] * 6
            shape[number], shape[number + 3] = axis.count, axis.size
            code = code.view(*shape, -1)
            parts.append(code.expand(*counts, *sizes, -1).flatten(0, 2).flatten(1, 3))
        return torch.cat(parts, dim=-1) if parts else None

    def tables(self, tables: tuple[Table, Table, Table]) -> list[Float[Tensor, "size size c"]]:
        """Relative positions of each axis inside a window, as [query key channels]."""
        pairs = zip(self.axes, tables, strict=True)
        return [_relative(axis.size, self.window, table) for axis, table in pairs]

    @property
    def _pads(self) -> bool:
        return any(axis.pad for axis in self.axes)


def window_attention(
    attn: Attention,
    x: Volumes,
    plan: WindowPlan,
    depth_table: Table | None,
    codes: Float[Tensor, "windows tokens codes"] | None,
) -> Volumes:
    """Multi-head attention inside the windows of a plan, with SAM's weights.

    `depth_table` holds the relative positions along depth, None for models without any; `codes` are
    `plan.codes`. The bias of relative positions and the mask between regions are sums over axes, so
    both are appended to queries and keys: their scalar product then contains them exactly, and
    fused attention needs no further input.
    """
    windows = plan.split(x)
    n, tokens, dim = windows.shape
    qkv = attn.qkv(windows).view(n, tokens, 3, attn.num_heads, dim // attn.num_heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # [windows heads tokens channels]
    channels = q.shape[-1]
    left, right = [q / math.sqrt(channels)], [k]
    if depth_table is not None:
        tables = plan.tables((depth_table, attn.rel_pos_h, attn.rel_pos_w))
        bias, place = _positions(q, tables)
        left.append(bias)
        right.append(place)
    if codes is not None:
        own = codes.to(q)[:, None].repeat(n // len(codes), attn.num_heads, 1, 1)
        left.append(_FAR * (1 - own))
        right.append(own)
    if len(left) == 1:
        out = F.scaled_dot_product_attention(q, k, v)
    else:
        out = _wide_attention(left, right, v)[..., :channels]
    return plan.join(attn.proj(out.transpose(1, 2).flatten(2)))


def _positions(
    q: Float[Tensor, "n heads tokens c"], tables: list[Float[Tensor, "size size c"]]
) -> tuple[Float[Tensor, "n heads tokens bias"], Float[Tensor, "n heads tokens bias"]]:
    """What query and key hold so that their product is the bias of decomposed positions."""
    d, h, w = (len(table) for table in tables)
    cells = q.unflatten(2, (d, h, w))
    names = ("nadhwc,dkc->nadhwk", "nadhwc,hkc->nadhwk", "nadhwc,wkc->nadhwk")
    biases = [
        torch.einsum(name, cells, table.to(q)) for name, table in zip(names, tables, strict=True)
    ]
    eyes = [torch.eye(size, dtype=q.dtype, device=q.device) for size in (d, h, w)]
    place = torch.cat(
        [
            eyes[0].repeat_interleave(h * w, 0),
            eyes[1].repeat_interleave(w, 0).repeat(d, 1),
            eyes[2].repeat(d * h, 1),
        ],
        dim=-1,
    )
    return torch.cat(biases, dim=-1).flatten(2, 4), place.expand(*q.shape[:2], -1, -1)


def _wide_attention(left: list[Tensor], right: list[Tensor], v: Tensor) -> Tensor:
    """Attention over concatenated vectors; the first columns of the result are the values'."""
    width = sum(part.shape[-1] for part in left)
    # fused kernels want one width for queries, keys and values, and a multiple of 8
    spare = -width % 8
    q, k = (F.pad(torch.cat(parts, dim=-1), (0, spare)) for parts in (left, right))
    return F.scaled_dot_product_attention(
        q, k, F.pad(v, (0, width + spare - v.shape[-1])), scale=1.0
    )


def _relative(size: int, window: int, table: Table) -> Float[Tensor, "size size c"]:
    """Rows of a table of relative positions for all pairs of an axis.

    The table is resized (linear, as upstream) to the distances in a full window; a smaller window
    uses its middle, so that a distance keeps its meaning.
    """
    if len(table) != 2 * window - 1:
        table = F.interpolate(table.T[None], size=2 * window - 1, mode="linear")[0].T
    place = torch.arange(size, device=table.device)
    return table[place[:, None] - place + window - 1]
