"""Label maps of a promptable model from prompts in whole volumes, through its sessions."""

import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer

from segkit.data.sampling import derive_seed
from segkit.evaluation.interactions import Act, Diary
from segkit.evaluation.oracle import OracleProtocol, Target, targets
from segkit.evaluation.samples import Sample
from segkit.metrics.overlap import overlap
from segkit.predictors.base import Predictor
from segkit.predictors.session import Session
from segkit.typing import BOX_FIRST, PADDING, Prompts

Labels = Integer[np.ndarray, "*shape"]

_BOX = 2


class Desk:
    """Where rows that differ in the number of clicks alone share one conversation per case."""

    def __init__(self) -> None:
        self.diary = Diary()
        self.conversation: Conversation | None = None


@dataclass(frozen=True, slots=True, eq=False)
class VolumeOracle:
    """A promptable predictor together with the user who prompts it in volumes.

    Prompts are drawn for each case from `seed` and the id of the case. Models of slices carry their
    masks to neighbouring slices after each click (`Session.propagate`). Copies that share a `desk`
    go on where the conversation stands, so that 1, 3 and 5 clicks are 5 decodings and not 9; each
    further number of clicks then costs only the time of the clicks it adds.
    """

    predictor: Predictor
    labels: Mapping[int, str]
    protocol: OracleProtocol = field(default_factory=lambda: OracleProtocol(per="volume"))
    seed: int = 0
    desk: Desk = field(default_factory=Desk)

    def __call__(self, sample: Sample) -> Labels:
        """Label map on the grid of the sample after the last prompt."""
        talk, rounds = self.desk.conversation, self.protocol.rounds
        if talk is None or talk.sample is not sample or talk.rounds > rounds:
            talk = self.desk.conversation = Conversation(self, sample)
        talk.go_on(rounds)
        return talk.labels()

    def snapshots(self, sample: Sample, counts: Sequence[int]) -> dict[int, Labels]:
        """Label maps after each number of prompts in `counts`, from one sequence of prompts."""
        talk = Conversation(self, sample)
        found = {}
        for count in sorted(set(counts)):
            talk.go_on(count)
            found[count] = talk.labels()
        return found


class Conversation:
    """Sessions on all objects of one case, `rounds` prompts each so far."""

    def __init__(self, oracle: VolumeOracle, sample: Sample) -> None:
        self.sample, self.rounds = sample, 0
        self._oracle = oracle
        self._rng = torch.Generator().manual_seed(
            derive_seed(oracle.seed, zlib.crc32(sample.id.encode()))
        )
        found = targets(sample.reference, oracle.labels, oracle.protocol, sample.instances)
        first = oracle.predictor.open(sample.source) if found else None
        self._objects = [
            _Object(target, first.object(f"{number}"), number)
            for number, target in enumerate(found)
            if first is not None
        ]

    def go_on(self, rounds: int) -> None:
        """Prompt every object until it has had so many prompts, or is perfect."""
        while self.rounds < rounds:
            self.rounds += 1
            for one in self._objects:
                self._prompt(one)

    def labels(self) -> Labels:
        """Label map; a voxel that several objects claim goes to the highest logit."""
        shape = self.sample.reference.shape
        out, best = np.zeros(shape, dtype=np.uint8), np.zeros(shape, dtype=np.float32)
        for one in self._objects:
            logits = one.session.logits()
            wins = logits > best
            out[wins], best[wins] = one.target.value, logits[wins]
        return out

    def _prompt(self, one: "_Object") -> None:
        protocol, masks = self._oracle.protocol, one.target.mask[None]
        if one.mask is None:
            prompts = protocol.first(masks, self._rng)
        else:
            prompts = protocol.next(one.mask[None], masks, self._rng)
        if (prompts.labels == PADDING).all():
            return  # nothing left to correct
        start = time.perf_counter()
        (k, j, i), label = _give(one.session, prompts)
        if label != _BOX and not self._oracle.predictor.is_volumetric:
            one.session.propagate()
        logits = one.session.logits()
        seconds = time.perf_counter() - start
        one.mask = logits > 0
        self._oracle.desk.diary.add(
            Act(
                case=self.sample.id,
                group=self.sample.group,
                value=one.target.value,
                object=one.number,
                number=self.rounds,
                label=label,
                k=k,
                j=j,
                i=i,
                dice=overlap(one.mask, one.target.mask).dice,
                coverage=float(np.isfinite(logits[one.target.mask]).mean()),
                seconds=seconds,
            )
        )


@dataclass(slots=True, eq=False)
class _Object:
    target: Target
    session: Session
    number: int
    mask: Bool[np.ndarray, "*shape"] | None = None


def _give(session: Session, prompts: Prompts) -> tuple[tuple[float, float, float], int]:
    """Hand simulated prompts of one object to its session; where they lie, and their kind."""
    points, labels = prompts.points[0].double().numpy(), prompts.labels[0].tolist()
    if BOX_FIRST in labels:
        # inclusive corners of a simulated box; those of a session are half-open
        first, last = np.rint(points[0]), np.rint(points[1]) + 1
        session.add_box((first.tolist(), last.tolist()))
        return _triple((first + last - 1) / 2), _BOX
    session.add_points([_triple(points[0])], [labels[0]])
    return _triple(points[0]), int(labels[0])


def _triple(values: Float[np.ndarray, "3"]) -> tuple[float, float, float]:
    k, j, i = values.tolist()
    return (k, j, i)
