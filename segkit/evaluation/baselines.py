"""Trivial answers that a model has to beat: they say what the prompt or the location gives away."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float, Integer

from segkit.data.preprocess import InputSpec, Intensity, SliceView
from segkit.data.volume import Picture, Volume
from segkit.evaluation.oracle import OracleProtocol, targets
from segkit.evaluation.samples import Sample

Labels = Integer[np.ndarray, "*shape"]

_FRAME_SLICES = 32
_FRAME_SIDE = 128
_FIT_CASES = 32
_THRESHOLDS = np.linspace(0.1, 0.7, 13)


@dataclass(frozen=True, slots=True)
class EllipseInBox:
    """The ellipse inscribed in the oracle box of every object; it never looks at the image."""

    labels: Mapping[int, str]
    spec: InputSpec
    protocol: OracleProtocol = field(default_factory=OracleProtocol)

    def __call__(self, sample: Sample) -> Labels:
        """Label map on the grid of the sample."""
        view = _view(sample.source, sample.reference, self.spec)
        stack = view.stack(sample.reference)
        ids = None if sample.instances is None else view.stack(sample.instances)
        out = np.zeros(view.shape, dtype=np.uint8)
        for index in np.flatnonzero(np.isin(stack, list(self.labels)).any(axis=(1, 2))).tolist():
            found = targets(
                stack[index], self.labels, self.protocol, None if ids is None else ids[index]
            )
            for target in found:
                out[index][_ellipse(target.mask)] = target.value
        return view.restore(out)


@dataclass(frozen=True, slots=True, eq=False)
class LocationPrior:
    """Where each class usually lies in the frame of the model; it never looks at the image.

    `frequency` is the share of training cases in which a cell of the frame belongs to the class,
    `thresholds` the share above which the cell is given to it, chosen on the training cases.
    """

    labels: Mapping[int, str]
    spec: InputSpec
    frequency: Float[np.ndarray, "classes slices rows cols"]
    thresholds: Float[np.ndarray, " classes"]

    @classmethod
    def fit(
        cls, references: Iterable[Sample], labels: Mapping[int, str], spec: InputSpec
    ) -> "LocationPrior":
        """Average the references of training cases.

        Raises:
            ValueError: There is no training case.
        """
        kept: list[np.ndarray] = []
        total, count = np.zeros(()), 0
        for sample in references:
            frame = _to_frame(sample, spec)
            total = total + np.stack([frame == value for value in labels]).astype(np.float32)
            count += 1
            if len(kept) < _FIT_CASES:
                kept.append(frame)
        if not count:
            raise ValueError("the location prior needs training cases, got none")
        frequency = total / count
        thresholds = [
            _best_threshold(one, [frame == value for frame in kept])
            for one, value in zip(frequency, labels, strict=True)
        ]
        return cls(labels, spec, frequency, np.array(thresholds))

    def __call__(self, sample: Sample) -> Labels:
        """Label map on the grid of the sample."""
        view = _view(sample.source, sample.reference, self.spec)
        values = np.array([0, *self.labels], dtype=np.uint8)
        out = np.zeros(view.shape, dtype=np.uint8)
        margin = self.frequency - self.thresholds[:, None, None, None]
        for index in range(view.shape[0]):
            depth = int((index + 0.5) / view.shape[0] * margin.shape[1])
            logits = view.logits_to_source([margin[:, depth].astype(np.float32)], [index])[0]
            out[index] = values[np.concatenate([np.zeros_like(logits[:1]), logits]).argmax(axis=0)]
        return view.restore(out)


def _view(source: Volume | Picture, labels: Labels, spec: InputSpec) -> SliceView:
    """The frame of a label array; nothing of the image but its lattice is used."""
    plain = replace(spec, channels="repeat", intensity=Intensity("percentile"))
    return SliceView(replace(source, array=labels), plain)


def _to_frame(sample: Sample, spec: InputSpec) -> Integer[np.ndarray, "slices rows cols"]:
    """Reference on a fixed number of slices, thinned to at most `_FRAME_SIDE` pixels."""
    view = _view(sample.source, sample.reference, spec)
    step = -(-spec.size // _FRAME_SIDE)
    count = 1 if spec.dimensions == 2 or view.shape[0] == 1 else _FRAME_SLICES
    chosen = ((np.arange(count) + 0.5) / count * view.shape[0]).astype(int)
    thin = slice(step // 2, None, step)
    return np.stack([view.label(sample.reference, int(i))[thin, thin] for i in chosen])


def _best_threshold(frequency: np.ndarray, references: list[Bool[np.ndarray, "..."]]) -> float:
    """Threshold with the highest mean Dice on training cases; of equal ones the middle one."""

    def quality(threshold: float) -> tuple[float, float]:
        found = frequency > threshold
        return float(np.mean([_dice(found, one) for one in references])), -abs(threshold - 0.5)

    return float(max(_THRESHOLDS, key=quality))


def _dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    total = np.count_nonzero(prediction) + np.count_nonzero(reference)
    return 2 * np.count_nonzero(prediction & reference) / total if total else 1.0


def _ellipse(mask: Bool[np.ndarray, "rows cols"]) -> Bool[np.ndarray, "rows cols"]:
    """Pixels whose centre lies in the ellipse inscribed in the box around a mask."""
    inside = []
    for axis, size in enumerate(mask.shape):
        where = np.flatnonzero(mask.any(axis=1 - axis))
        centre, radius = (where[0] + where[-1]) / 2, (where[-1] - where[0] + 1) / 2
        inside.append(((np.arange(size) - centre) / radius) ** 2)
    return np.add.outer(*inside) <= 1
