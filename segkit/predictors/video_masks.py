"""Masks of a whole sequence, kept as run lengths, and what they measure."""

import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float

from segkit.data.volume import Picture


@dataclass(frozen=True, slots=True, eq=False)
class RunLengths:
    """A mask as lengths of runs of 0, 1, 0, ... down its columns, as in COCO, deflated."""

    size: tuple[int, int]
    packed: bytes

    @classmethod
    def of(cls, mask: Bool[np.ndarray, "rows columns"]) -> "RunLengths":
        """Pack a mask."""
        flat = mask.ravel(order="F")
        ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        edges = np.concatenate([[0], ends, [flat.size]])
        runs = np.diff(edges)
        if flat.size and flat[0]:
            runs = np.concatenate([[0], runs])
        return cls(mask.shape, zlib.compress(runs.astype(np.uint32).tobytes(), 1))

    def counts(self) -> list[int]:
        """Lengths of the runs, the first of background, as in COCO's uncompressed form."""
        return np.frombuffer(zlib.decompress(self.packed), dtype=np.uint32).tolist()

    def mask(self) -> Bool[np.ndarray, "rows columns"]:
        """Unpack."""
        counts = self.counts()
        values = np.arange(len(counts)) % 2 == 1
        return np.repeat(values, counts).reshape(self.size, order="F")


@dataclass(frozen=True, slots=True, eq=False)
class ObjectMask:
    """One object on one frame.

    `score` is the predicted IoU, 0 where the object is not seen. `area_px` and `centroid` (row,
    column) are of the mask; the centroid of an empty mask is unknown. `pointer` is what the memory
    knows of the object besides the mask.
    """

    runs: RunLengths
    score: float
    area_px: int
    centroid: tuple[float, float] | None
    pointer: bytes = b""

    @classmethod
    def of(
        cls,
        mask: Bool[np.ndarray, "rows columns"],
        score: float,
        pointer: Float[np.ndarray, " dim"] | None = None,
    ) -> "ObjectMask":
        """Pack and measure a mask."""
        rows, columns = mask.sum(axis=1), mask.sum(axis=0)
        area = int(rows.sum())
        centroid = None
        if area:
            centroid = (
                float(rows @ np.arange(len(rows)) / area),
                float(columns @ np.arange(len(columns)) / area),
            )
        stored = b"" if pointer is None else pointer.astype(np.float32).tobytes()
        return cls(RunLengths.of(mask), score if area else 0.0, area, centroid, stored)

    @property
    def n_bytes(self) -> int:
        """Bytes of the packed mask and the pointer."""
        return len(self.runs.packed) + len(self.pointer)


@dataclass(frozen=True, slots=True, eq=False)
class FrameMasks:
    """Masks of one frame by object; `scores` are predicted IoUs, 0 where an object is not seen."""

    frame: int
    time_s: float | None
    masks: Mapping[int, Bool[np.ndarray, "rows columns"]]
    scores: Mapping[int, float]
    picture: Picture | None = field(default=None, repr=False)


class MaskTrack:
    """Masks by frame and object: a few kilobytes each, whatever the size of the frames."""

    def __init__(self) -> None:
        self._frames: dict[int, dict[int, ObjectMask]] = {}

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, frame: int, id_: int, mask: ObjectMask) -> None:
        """Keep a mask in place of an earlier one."""
        self._frames.setdefault(frame, {})[id_] = mask

    def get(self, frame: int, id_: int) -> ObjectMask | None:
        """Return the mask of an object on a frame, if there is one."""
        return self._frames.get(frame, {}).get(id_)

    def drop(self, frame: int, id_: int) -> None:
        """Forget one mask."""
        self._frames.get(frame, {}).pop(id_, None)

    def remove(self, id_: int) -> None:
        """Forget an object."""
        for masks in self._frames.values():
            masks.pop(id_, None)

    def frames(self) -> Iterator[tuple[int, dict[int, ObjectMask]]]:
        """Frames that have masks, in order."""
        for frame in sorted(self._frames):
            if masks := self._frames[frame]:
                yield frame, dict(masks)

    @property
    def n_bytes(self) -> int:
        """Bytes of all packed masks and pointers."""
        return sum(one.n_bytes for masks in self._frames.values() for one in masks.values())


def distance(
    first: tuple[float, float], second: tuple[float, float], step: tuple[float, float]
) -> float:
    """Distance of two points (row, column) on a grid with that `step` between rows and columns."""
    return math.hypot((second[0] - first[0]) * step[0], (second[1] - first[1]) * step[1])
