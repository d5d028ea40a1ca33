"""The network behind `InrDecoder`: coarse and fine logits of points from what is sampled there."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from typing_extensions import override

from segkit.kernels.dispatch import Impl
from segkit.kernels.field import field_layer, field_layers, folded, is_fused, sampled

AXES, OCTAVES = 3, 10
CODE = AXES * (2 * OCTAVES + 1)
"""Numbers in the code of a coordinate: sines, cosines, and the coordinate itself."""
_CHUNK = 65_536  # rows in flight in evaluation: 256 MiB at the published width
_DROPOUT = 0.5

PointMaps = Float[Tensor, "objects masks points"]
Rows = Float[Tensor, "rows _"]


@dataclass(frozen=True, slots=True)
class Samples:
    """What the network reads at each point.

    `features` differ from object to object; `shared` (position code of the encoder, then the code
    of the coordinate) does not.
    """

    features: Float[Tensor, "objects points channels"]
    shared: Float[Tensor, "points codes"]

    def __len__(self) -> int:
        return len(self.shared)

    def chunks(self, rows: int) -> Iterator["Samples"]:
        """Cut along the points into pieces of at most that many rows."""
        step = max(1, rows // len(self.features))
        for start in range(0, len(self.shared), step):
            part = slice(start, start + step)
            yield Samples(self.features[:, part], self.shared[part])

    def layer(self, linear: nn.Linear) -> Float[Tensor, "objects points _"]:
        """First layer at every point.

        It is linear: what it makes of `shared` is computed once for all objects.
        """
        channels = self.features.shape[-1]
        own, common = linear.weight[:, :channels], linear.weight[:, channels:]
        return F.linear(self.features, own) + F.linear(self.shared, common, linear.bias)


@dataclass(frozen=True, slots=True)
class Places:
    """Where the network reads, for the fused first layer: what `Samples` holds is never stored.

    `positions` of the encoder are one map for all objects; `codes` are those of the coordinates.
    """

    cells: Float[Tensor, "objects channels *size"]
    positions: Float[Tensor, "1 dim *coarse"] | None
    points: Float[Tensor, "points axes"]
    codes: Float[Tensor, "points code"]
    impl: Impl = "auto"

    def __len__(self) -> int:
        return len(self.points)

    @property
    def features(self) -> Float[Tensor, "objects points channels"]:
        """As in `Samples`."""
        return sampled(self.cells, self.points)

    @property
    def shared(self) -> Float[Tensor, "points codes"]:
        """As in `Samples`."""
        if self.positions is None:
            return self.codes
        return torch.cat([sampled(self.positions, self.points)[0], self.codes], dim=1)

    def chunks(self, rows: int) -> Iterator["Places"]:
        """Cut along the points into pieces of at most that many rows."""
        step = max(1, rows // len(self.cells))
        for start in range(0, len(self.points), step):
            part = slice(start, start + step)
            yield replace(self, points=self.points[part], codes=self.codes[part])

    def layer(self, linear: nn.Linear) -> Float[Tensor, "objects points _"]:
        """First layer at every point."""
        pair = (linear.weight, linear.bias)
        return field_layer(
            self.cells, self.positions, self.points, self.codes, pair, impl=self.impl
        )

    def layer_at(
        self,
        linear: nn.Linear,
        objects: Int[Tensor, " rows"],
        points: Int[Tensor, " rows"],
        hidden: Float[Tensor, "rows width"],
    ) -> Rows:
        """First layer of the second network, which reads `hidden` too, at chosen points."""
        dense = torch.cat([self.codes[points], hidden.to(self.codes)], dim=1)
        pair = (linear.weight, linear.bias)
        return field_layer(
            self.cells, self.positions, self.points[points], dense, pair, objects, impl=self.impl
        )

    def layers(self, trunk: nn.Sequential) -> Rows:
        """All layers of the first network without gradients, norms folded into weights."""
        parts: list[Any] = list(trunk)
        pairs = tuple(folded(*parts[n : n + 2]) for n in range(0, len(parts), 3))
        return field_layers(
            self.cells, self.positions, self.points, self.codes, pairs, impl=self.impl
        )


@dataclass(frozen=True, slots=True)
class Coarse:
    """First answer: `logits`, how uncertain each is, and `hidden` features for the second."""

    logits: PointMaps
    uncertainty: PointMaps
    hidden: Float[Tensor, "objects masks points width"]


class ImplicitField(nn.Module):
    """Coarse logits everywhere, and finer ones where the coarse ones are least certain.

    Source: "I-MedSAM" (Wei et al., ECCV 2024), section 3.3. The released code and the default
    differ: see `InrDecoder`. `channels` and `codes` are the widths of `Samples`.
    """

    def __init__(
        self,
        channels: int,
        codes: int,
        *,
        width: int = 256,
        share: float = 0.125,
        compat: Literal["authors"] | None = None,
    ) -> None:
        super().__init__()
        self.width, self.share, self.compat = width, share, compat
        inputs = channels + codes
        self.coarse_trunk = _layers(inputs, 4 * width, 2 * width)
        self.fine_trunk = _layers(inputs + width, width, width)
        self.coarse_heads, self.fine_heads = nn.ModuleList(), nn.ModuleList()
        self.add_masks(1)

    def add_masks(self, count: int) -> None:
        """Add heads; every mask has its own."""
        width = self.width
        for _ in range(count):
            self.coarse_heads.append(nn.Linear(2 * width, 1 + width))
            last = nn.Linear(width // 2, 1)
            self.fine_heads.append(nn.Sequential(*_layers(width, width // 2), last))

    @override
    def forward(self, samples: Samples | Places) -> tuple[PointMaps, PointMaps]:
        """Logits without and with refinement of the `share` of points that needs it most."""
        if self.compat == "authors" and (objects := len(samples.features)) > 1:
            # one choice over all images of the batch
            rows = Samples(samples.features.flatten(0, 1)[None], samples.shared.repeat(objects, 1))
            both = (one[0].unflatten(1, (objects, -1)).transpose(0, 1) for one in self(rows))
            coarse_logits, fine_logits = both
            return coarse_logits, fine_logits
        coarse = self.coarse(samples)
        chosen = self._most_uncertain(coarse.uncertainty)
        return coarse.logits, self._refined(samples, coarse, chosen)

    def is_fused(self, places: Places) -> bool:
        """Whether sampling and the first layer run as one; the released form never does."""
        first = cast(nn.Linear, self.coarse_trunk[0])
        layer = (first.weight, first.bias)
        given = (places.cells, places.positions, places.points, places.codes, layer)
        return self.compat is None and is_fused(*given)

    def coarse(self, samples: Samples | Places) -> Coarse:
        """First answer for every point."""
        if self.compat == "authors":
            return self._released_coarse(samples)
        trunk = self._trunk(samples)
        dropped = F.dropout(trunk, _DROPOUT, self.training)
        outputs = torch.stack([head(dropped) for head in self.coarse_heads], dim=1)
        logits = outputs[..., 0]
        return Coarse(logits, self.uncertainty(trunk.detach(), logits.detach()), outputs[..., 1:])

    def uncertainty(self, trunk: Float[Tensor, "objects points _"], logits: PointMaps) -> PointMaps:
        """Standard deviation of the probability under dropout of the features before the head.

        The logit w.h + b has the variance p / (1 - p) sum(w^2 h^2) when each feature is dropped
        with probability p: what many random passes would estimate, exactly and in one. The slope
        of the sigmoid takes it to probabilities.
        """
        weights = torch.stack([head.weight[0] for head in _linears(self.coarse_heads)])
        odds = _DROPOUT / (1 - _DROPOUT)
        variance = odds * trunk.square() @ weights.detach().square().T.to(trunk.dtype)
        p = logits.sigmoid()
        return p * (1 - p) * variance.transpose(1, 2).sqrt()

    def threshold(self, samples: Samples | Places) -> Float[Tensor, "objects masks"]:
        """Uncertainty from which on points are refined, if `samples` are a regular grid."""
        scores = [self.coarse(part).uncertainty for part in samples.chunks(_CHUNK)]
        count = max(1, int(self.share * len(samples)))
        return torch.cat(scores, dim=2).topk(count, dim=2).values[..., -1]

    def at(self, samples: Samples | Places, threshold: Float[Tensor, "objects masks"]) -> PointMaps:
        """Logits of any points, in bounded memory; a point's value is its own, whatever else."""
        return torch.cat([self._at(part, threshold) for part in samples.chunks(_CHUNK)], dim=2)

    def _at(
        self, samples: Samples | Places, threshold: Float[Tensor, "objects masks"]
    ) -> PointMaps:
        coarse = self.coarse(samples)
        logits = coarse.logits.clone()
        is_fine = coarse.uncertainty >= threshold[..., None]
        for mask in range(logits.shape[1]):
            objects, points = is_fine[:, mask].nonzero(as_tuple=True)
            if len(points):
                hidden = coarse.hidden[objects, mask, points]
                values = self._fine_at(mask, samples, objects, points, hidden)
                logits[objects, mask, points] = values.to(logits)
        return logits

    def _refined(
        self, samples: Samples | Places, coarse: Coarse, chosen: Int[Tensor, "objects masks chosen"]
    ) -> PointMaps:
        if not chosen.shape[-1]:
            return coarse.logits
        maps = []
        for mask in range(chosen.shape[1]):
            index = chosen[:, mask]
            objects = torch.arange(len(index), device=index.device).repeat_interleave(
                index.shape[1]
            )
            hidden = _taken(coarse.hidden[:, mask], index).flatten(0, 1)
            values = self._fine_at(mask, samples, objects, index.flatten(), hidden).view_as(index)
            maps.append(coarse.logits[:, mask].scatter(1, index, values.to(coarse.logits)))
        return torch.stack(maps, dim=1)

    def _most_uncertain(self, scores: PointMaps) -> Int[Tensor, "objects masks chosen"]:
        return scores.topk(int(self.share * scores.shape[-1]), dim=-1).indices

    def _trunk(self, samples: Samples | Places) -> Float[Tensor, "objects points _"]:
        """Features before the heads."""
        first, *rest = self.coarse_trunk
        if isinstance(samples, Places) and not self.training and not torch.is_grad_enabled():
            rows = samples.layers(self.coarse_trunk)
            return rows.unflatten(0, (len(samples.cells), -1))
        x = samples.layer(cast(nn.Linear, first))
        shape = x.shape[:2]
        return _through(rest, x.flatten(0, 1)).unflatten(0, shape)

    def _fine_at(
        self,
        mask: int,
        samples: Samples | Places,
        objects: Int[Tensor, " rows"],
        points: Int[Tensor, " rows"],
        hidden: Float[Tensor, "rows width"],
    ) -> Float[Tensor, " rows"]:
        """Fine logits of some points of some objects."""
        first, *rest = self.fine_trunk
        if isinstance(samples, Places):
            x = samples.layer_at(cast(nn.Linear, first), objects, points, hidden)
        else:
            rows = [samples.features[objects, points], samples.shared[points], hidden]
            x = first(torch.cat(rows, dim=-1))
        return self.fine_heads[mask](_through(rest, x))[:, 0]

    def _released_coarse(self, samples: Samples | Places) -> Coarse:
        """Dropout on the outputs, two passes in training, no variance at all in evaluation."""
        passes = []
        for _ in range(2 if self.training else 1):
            trunk = self._trunk(samples)
            outputs = torch.stack([head(trunk) for head in self.coarse_heads], dim=1)
            passes.append(F.dropout(outputs, _DROPOUT, self.training))
        last = passes[-1]
        if self.training:
            variance = torch.stack(passes).var(dim=0).mean(dim=-1).detach()
        else:
            variance = torch.zeros_like(last[..., 0])
        return Coarse(last[..., 0], variance, last[..., 1:])


def coordinate_code(
    points: Float[Tensor, "points 3"], *, compat: Literal["authors"] | None = None
) -> Float[Tensor, "points code"]:
    """Sines and cosines of coordinates (k, j, i) in [-1, 1] at ten octaves, then themselves.

    Frequencies are pi 2^l, l = 0..9, as in the paper; the released code has 2 pi 2^(10 l / 9).
    """
    if compat == "authors":
        steps = torch.linspace(0.0, OCTAVES, OCTAVES, dtype=points.dtype, device=points.device)
        angles = ((2 * math.pi * points)[:, :, None] * 2**steps).flatten(1)
        # not the cosine: at a thousand turns, rounding tells the two apart
        return torch.cat([angles.sin(), (angles + math.pi / 2).sin(), points], dim=1)
    steps = torch.arange(OCTAVES, dtype=points.dtype, device=points.device)
    angles = (points[:, :, None] * (math.pi * 2**steps)).flatten(1)
    return torch.cat([angles.sin(), angles.cos(), points], dim=1)


def unmasking(
    progress: Float[Tensor, ""], *, compat: Literal["authors"] | None = None
) -> Float[Tensor, " code"]:
    """Weights of the numbers of a code during training: from low frequencies to high ones.

    `progress` runs from 0 to 1. The released code unmasks from left to right instead: all
    frequencies of the first axis before any of the second.
    """
    if compat == "authors":
        column = torch.arange(CODE, device=progress.device)
        return (column < (progress * CODE).floor() + AXES).to(progress.dtype)
    octave = torch.arange(OCTAVES, device=progress.device)
    waves = (progress * OCTAVES - octave).clamp(0, 1).repeat(2 * AXES)
    return torch.cat([waves, waves.new_ones(AXES)])


def _layers(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU()]
    return nn.Sequential(*layers)


def _through(layers: list[nn.Module], x: Rows) -> Rows:
    for layer in layers:
        x = layer(x)
    return x


def _linears(heads: Any) -> list[nn.Linear]:
    return list(heads)


def _taken(
    values: Float[Tensor, "objects points c"], index: Int[Tensor, "objects chosen"]
) -> Float[Tensor, "objects chosen c"]:
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))
