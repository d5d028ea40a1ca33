"""Results of a pass, written frame by frame: masks as run lengths, a table, an overlay video."""

import csv
import io
import json
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from segkit.data.atomic import atomic_file
from segkit.data.video import FrameSource, VolumeFrames
from segkit.data.video_writer import OverlayWriter
from segkit.predictors.video_labels import VolumeLabels, is_volume_file
from segkit.predictors.video_masks import FrameMasks, MaskTrack, ObjectMask, distance

OVERLAY, MASKS, TABLE, LABELS = "overlay.mp4", "masks.jsonl", "frames.csv", "labels.nii.gz"
COLUMNS = (
    "frame", "time_s", "object", "score", "area_px", "area_mm2", "row_px", "column_px",
    "moved_px", "moved_mm", "from_start_px", "from_start_mm",
)  # fmt: skip


class VideoWriter(AbstractContextManager["VideoWriter"]):
    """Write a pass to `output`: an .mp4 is the overlay alone, a folder gets everything.

    Of a volume a folder gets the label map as well, and a file for volumes is the label map alone.
    `masks.jsonl` has one line per frame, masks as uncompressed run lengths of COCO. `frames.csv`
    has one row per frame and object: area, centroid, its motion since the frame before on which the
    object was seen, and since the first; in mm where the source knows its spacing, else empty.
    Files appear when the block ends without an error.

    Raises:
        InputError: A folder cannot be written to.
    """

    def __init__(self, output: str | Path, source: FrameSource, track: MaskTrack) -> None:
        self.output, self._source, self._track = Path(output), source, track
        self._stack = ExitStack()
        self._overlay: OverlayWriter | None = None
        self._masks: BinaryIO | None = None
        self._table: BinaryIO | None = None
        self._labels: VolumeLabels | None = None
        self._first: dict[int, tuple[float, float]] = {}
        self._last: dict[int, tuple[float, float]] = {}

    def __enter__(self) -> Self:
        if is_volume_file(self.output):
            self._open_labels(self.output)
            return self
        is_file = self.output.suffix.lower() == ".mp4"
        folder = self.output.parent if is_file else self.output
        folder.mkdir(parents=True, exist_ok=True)
        path = self.output if is_file else folder / OVERLAY
        writer = OverlayWriter(path, value_range=self._source.value_range)
        self._overlay = self._stack.enter_context(writer)
        if not is_file:
            self._masks = self._stack.enter_context(atomic_file(folder / MASKS))
            self._table = self._stack.enter_context(atomic_file(folder / TABLE))
            self._row(self._table, COLUMNS)
            if isinstance(self._source, VolumeFrames):
                self._open_labels(folder / LABELS)
        return self

    def _open_labels(self, path: Path) -> None:
        self._labels = self._stack.enter_context(VolumeLabels(path, self._source))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        return self._stack.__exit__(kind, error, trace)

    def write(self, found: FrameMasks) -> None:
        """Add the next frame."""
        if self._labels is not None:
            self._labels.write(found)
        if self._overlay is not None:
            picture = found.picture or self._source.read(found.frame)
            self._overlay.write(picture, found.masks, found.time_s)
        objects = {one: self._track.get(found.frame, one) for one in found.masks}
        known = {one: mask for one, mask in objects.items() if mask is not None}
        if self._masks is not None:
            self._masks.write(json.dumps(_line(found, known)).encode() + b"\n")
        if self._table is not None:
            for one, mask in known.items():
                self._row(self._table, self._values(found, one, mask))

    def _values(self, found: FrameMasks, one: int, mask: ObjectMask) -> tuple[object, ...]:
        spacing, centre = self._source.spacing_mm, mask.centroid
        area_mm2 = "" if spacing is None else _short(mask.area_px * spacing[0] * spacing[1])
        head = (
            found.frame, "" if found.time_s is None else _short(found.time_s), one,
            _short(mask.score), mask.area_px, area_mm2,
        )  # fmt: skip
        if centre is None:
            return (*head, *[""] * 6)
        moves: list[object] = []
        for before in (self._last.get(one, centre), self._first.setdefault(one, centre)):
            moves.append(_short(distance(before, centre, (1.0, 1.0))))
            moves.append("" if spacing is None else _short(distance(before, centre, spacing)))
        self._last[one] = centre
        return (*head, _short(centre[0]), _short(centre[1]), *moves)

    @staticmethod
    def _row(file: BinaryIO, values: tuple[object, ...]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(values)
        file.write(text.getvalue().encode())


def _line(found: FrameMasks, known: dict[int, ObjectMask]) -> dict[str, object]:
    return {
        "frame": found.frame,
        "time_s": found.time_s,
        "objects": {
            str(one): {
                "score": round(mask.score, 4),
                "size": list(mask.runs.size),
                "counts": mask.runs.counts(),
            }
            for one, mask in known.items()
        },
    }


def _short(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1 else f"{value:.3f}"
