"""One sequence of frames, the marks on it and the masks of its objects."""

import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped

from segkit.data.video import FrameSource
from segkit.data.video_live import LiveFrames
from segkit.data.video_open import read_ahead
from segkit.data.volume import Picture
from segkit.errors import DataWarning, InputError
from segkit.memory.bank import Direction, MemoryBank
from segkit.models.info import ModelInfo
from segkit.models.tracker import ObjectPrompt, Tracker, TrackPrediction
from segkit.predictors.marks import Mark, Numbers, check_box, check_points, settle
from segkit.predictors.video_marks import Before, Marks
from segkit.predictors.video_masks import FrameMasks, MaskTrack, ObjectMask
from segkit.predictors.video_passes import visited, whole
from segkit.predictors.video_recall import Recaller
from segkit.predictors.video_view import FrameView
from segkit.typing import Features

_FEATURES = 2  # encoded frames kept for further clicks
_UNDO = 16  # interactions that can be taken back


class VideoSession:
    """Objects on a sequence of frames: mark them anywhere, correct them anywhere, propagate.

    Objects are numbered by the caller. Coordinates are (row, column) of the frame. A mark decodes
    its frame at once; other frames change with the next `propagate` that passes them. The first
    mark on a frame where the object has not been tracked starts from the frame alone; marks on a
    tracked frame correct the mask that is there, and from then on count like any other. Nothing
    that is kept grows with the sequence but the masks, as run lengths.

    `cancel` may be called from another thread; everything else belongs to one thread at a time.
    """

    def __init__(self, tracker: Tracker, source: FrameSource, info: ModelInfo | None) -> None:
        self.source = source
        self._tracker, self._info = tracker, info
        self._view: FrameView | None = None
        self._bank = MemoryBank()
        self._marks: dict[tuple[int, int], Marks] = {}
        self._track = MaskTrack()
        self._features: OrderedDict[int, Features] = OrderedDict()
        self._recaller = Recaller(tracker, self._encode)
        self._history: list[Before] = []
        self._cancelled = threading.Event()
        self._warned = self._passes = 0

    @property
    def objects(self) -> tuple[int, ...]:
        """Objects in the order in which they were first marked."""
        return self._bank.ids

    @property
    def marked(self) -> tuple[tuple[int, int], ...]:
        """(object, frame) of all marks."""
        return tuple(self._marks)

    @property
    def track(self) -> MaskTrack:
        """Masks of all frames so far."""
        return self._track

    @property
    def memory_bytes(self) -> int:
        """Bytes that the memory of all objects takes; bounded whatever the number of frames."""
        return self._bank.n_bytes

    def add_points(
        self,
        points: Sequence[Numbers],
        labels: Sequence[int],
        *,
        frame: int | None = None,
        object_id: int = 1,
    ) -> Bool[np.ndarray, "rows columns"]:
        """Add clicks (row, column) with labels 1 (object) or 0; the mask of the frame comes back.

        Without `frame` the latest frame of a live sequence is meant, else the first.

        Raises:
            InputError: No point; a point outside the frame; a frame that does not exist, has not
                been pushed yet or is no longer kept.
        """
        if not len(points):
            raise InputError("no point was given", fix="give one or more", code="no_prompt")
        frame = self._frame(frame)
        return self._add(frame, object_id, check_points(points, labels, self.source.size))

    def add_box(
        self, box: tuple[Numbers, Numbers], *, frame: int | None = None, object_id: int = 1
    ) -> Bool[np.ndarray, "rows columns"]:
        """Add a half-open box ((row, column), (row, column)); see `add_points`."""
        frame = self._frame(frame)
        return self._add(frame, object_id, (check_box(box, self.source.size),))

    def add_mask(
        self,
        mask: Bool[np.ndarray, "rows columns"],
        *,
        frame: int | None = None,
        object_id: int = 1,
    ) -> Bool[np.ndarray, "rows columns"]:
        """Give the mask of an object on a frame, in place of marks there.

        Raises:
            InputError: The shape differs from the frame's or the values are not boolean.
        """
        frame = self._frame(frame)
        if mask.shape != self.source.size or mask.dtype != np.bool_:
            raise InputError(
                f"mask prompt has shape {mask.shape} and type {mask.dtype}",
                fix=f"give a bool array of shape {self.source.size}",
                code="prompt_mask",
            )
        return self._interact(frame, object_id, Marks(given=mask.copy()))

    def clear(self, frame: int, object_id: int) -> Self:
        """Take back all marks of an object on a frame; the next `propagate` tracks it there.

        Raises:
            InputError: There are none.
        """
        if (object_id, frame) not in self._marks:
            raise InputError(
                f"object {object_id} has no marks on frame {frame}",
                fix=f"marked (object, frame): {sorted(self._marks)}",
                code="no_prompt",
            )
        self._remember_for_undo(frame, object_id)
        del self._marks[object_id, frame]
        self._bank = self._bank.forget(object_id, frame)
        self._track.drop(frame, object_id)
        return self

    def remove(self, object_id: int) -> Self:
        """Forget an object, its marks and its masks.

        Raises:
            InputError: There is no such object.
        """
        if object_id not in self.objects:
            raise InputError(
                f"there is no object {object_id}", fix=f"objects: {list(self.objects)}"
            )
        self._bank = self._bank.remove(object_id)
        self._marks = {key: marks for key, marks in self._marks.items() if key[0] != object_id}
        self._track.remove(object_id)
        self._history.clear()
        return self

    def undo(self) -> Self:
        """Take back the last marks; without any since the last `propagate`, nothing happens."""
        if self._history:
            before = self._history.pop()
            object_id, frame = before.key
            self._bank = before.bank
            self._marks.pop(before.key, None)
            self._track.drop(frame, object_id)
            if before.marks is not None:
                self._marks[before.key] = before.marks
            if before.mask is not None:
                self._track.put(frame, object_id, before.mask)
        return self

    def reset(self) -> Self:
        """Forget all objects; the frames stay open."""
        self._bank = MemoryBank()
        self._marks.clear()
        self._history.clear()
        self._track = MaskTrack()
        return self

    def mask(self, frame: int, object_id: int = 1) -> Bool[np.ndarray, "rows columns"]:
        """Mask of an object on a frame that was marked or tracked.

        Raises:
            InputError: It was neither.
        """
        if (found := self._track.get(frame, object_id)) is None:
            raise InputError(
                f"object {object_id} has no mask on frame {frame}",
                fix="mark it there, or propagate over the frame",
                code="no_mask",
            )
        return found.runs.mask()

    def push(
        self, frame: Shaped[np.ndarray, "..."], time_s: float | None = None
    ) -> dict[int, Bool[np.ndarray, "rows columns"]]:
        """Take the next frame of a live sequence and return the masks of all objects on it.

        Raises:
            InputError: The session has a source of its own, or the frame does not fit.
        """
        if not isinstance(self.source, LiveFrames):
            raise InputError(
                "frames cannot be pushed to a session that reads them itself",
                fix="open a live session with predictor.open(None)",
            )
        index = self.source.push(frame, time_s)
        self._history.clear()
        if not self.objects:
            return {}
        self._advance(index, self._encode(index), 1)
        return dict(self._result(index).masks)

    def propagate(
        self, start: int | None = None, count: int | None = None, *, reverse: bool = False
    ) -> Iterator[FrameMasks]:
        """Track all objects from frame `start` to the end, or to the beginning; frame by frame.

        `start` is the earliest marked frame by default, `count` the largest number of frames. Leave
        the loop or call `cancel` to stop: finished frames stay, and `propagate(start=...)` goes on.
        A file that ends early ends the pass, with one warning.

        Objects may be marked and removed between frames; once all are removed, the pass ends.

        Raises:
            InputError: No object is marked; or a frame cannot be used, after the frames before it;
                or another pass has begun since the last frame.
        """
        if not self._marks:
            raise InputError(
                "there is no object to track",
                fix="mark one with a point, a box or a mask first",
                code="no_prompt",
            )
        first = min(frame for _, frame in self._marks) if start is None else self._frame(start)
        direction: Direction = -1 if reverse else 1
        indices = visited(first, count, direction, self.source.count)
        self._cancelled.clear()
        self._history.clear()
        self._passes += 1
        mine = self._passes
        self._bank = self._bank_at(first, direction)
        with closing(read_ahead(self.source, indices)) as pictures:
            for index, picture in pictures:
                features = None
                if any((one, index) not in self._marks for one in self.objects):
                    features = self._encode(index, picture)
                self._history.clear()  # marks made at a pause of the pass count from here on
                self._advance(index, features, direction)
                yield self._result(index, picture)
                if self._cancelled.is_set() or not self.objects:
                    return
                if self._passes != mine:
                    raise InputError(
                        f"another pass has begun since frame {index}",
                        fix=f"go on with propagate(start={index + direction}) when it has ended",
                        code="pass_replaced",
                    )
        self._warn()

    def results(self) -> Iterator[FrameMasks]:
        """Masks of all frames so far, in the order of the frames, whatever passes they are from."""
        for index, _ in self._track.frames():
            yield self._result(index)

    def cancel(self) -> None:
        """Stop a running `propagate` behind its current frame."""
        self._cancelled.set()

    def _advance(self, index: int, features: Features | None, direction: Direction) -> None:
        """Track what is not marked on a frame; the state changes only when all is done."""
        bank = self._bank.at(index, direction)
        rest = [one for one in bank.ids if (one, index) not in self._marks]
        if rest:
            assert features is not None
            with torch.inference_mode():
                prediction, bank = self._tracker.track(features, bank, rest)
            self._keep(index, prediction)
        self._bank = bank.at(index + direction, direction)

    def _add(
        self, frame: int, object_id: int, new: tuple[Mark, ...]
    ) -> Bool[np.ndarray, "rows columns"]:
        before = self._marks.get((object_id, frame))
        if before is None:
            starts = self._track.get(frame, object_id) is None
            logits = None if starts else self._tracked_logits(frame, object_id)
            return self._interact(frame, object_id, Marks(settle(new), None, starts, logits))
        marks = Marks(settle((*before.marks, *new)), None, before.starts, before.logits)
        return self._interact(frame, object_id, marks)

    def _interact(
        self, frame: int, object_id: int, marks: Marks
    ) -> Bool[np.ndarray, "rows columns"]:
        features = self._encode(frame)
        view = self._ready()
        if marks.given is not None:
            prompt = ObjectPrompt(mask=view.given(marks.given))
        else:
            prompt = view.prompt(marks.marks, marks.logits, sees_memory=not marks.starts)
        direction = self._bank.direction
        bank = self._bank.at(frame, direction)
        if not marks.starts:
            bank = self._bank_at(frame, direction)
        with torch.inference_mode():
            prediction, bank = self._tracker.interact(features, {object_id: prompt}, bank)
        self._remember_for_undo(frame, object_id)
        self._bank = self._bank.with_prompted(object_id, bank)
        self._marks[object_id, frame] = Marks(
            marks.marks, marks.given, marks.starts, prediction.logits[0]
        )
        self._keep(frame, prediction, {} if marks.given is None else {object_id: marks.given})
        return self.mask(frame, object_id)

    def _tracked_logits(self, frame: int, object_id: int) -> Float[torch.Tensor, "1 rows cols"]:
        """Logits of a tracked mask, found again from what is known of the frames before."""
        bank = self._bank_at(frame, self._bank.direction)
        if not bank.has_memory(object_id):
            given = self._ready().given(self.mask(frame, object_id))
            with torch.inference_mode():
                prompt = {object_id: ObjectPrompt(mask=given)}
                prediction, _ = self._tracker.interact(self._encode(frame), prompt, bank)
        else:
            with torch.inference_mode():
                prediction, _ = self._tracker.track(self._encode(frame), bank, [object_id])
        return prediction.logits[0]

    def _bank_at(self, frame: int, direction: Direction) -> MemoryBank:
        place = (frame, direction)
        return self._recaller.bank_at(self._bank, self._track, self._ready(), self._marks, place)

    def _keep(
        self,
        frame: int,
        prediction: TrackPrediction,
        given: Mapping[int, Bool[np.ndarray, "rows columns"]] | None = None,
    ) -> None:
        view = self._ready()
        iou, score = prediction.iou[:, 0].tolist(), prediction.score[:, 0].tolist()
        pointers = prediction.pointers.float().cpu().numpy()
        for row, one in enumerate(prediction.ids):
            mask = (given or {}).get(one)
            if mask is None:
                mask = view.mask(prediction.logits[row], is_seen=score[row] > 0)
            self._track.put(frame, one, ObjectMask.of(mask, iou[row], pointers[row]))

    def _result(self, index: int, picture: Picture | None = None) -> FrameMasks:
        found = {one: self._track.get(index, one) for one in self.objects}
        kept = {one: mask for one, mask in found.items() if mask is not None}
        return FrameMasks(
            index,
            self.source.time_s(index),
            {one: mask.runs.mask() for one, mask in kept.items()},
            {one: mask.score for one, mask in kept.items()},
            picture,
        )

    def _encode(self, index: int, picture: Picture | None = None) -> Features:
        if index not in self._features:
            image = self._ready().image(self.source.read(index) if picture is None else picture)
            with torch.inference_mode():
                self._features[index] = self._tracker.encode(image.to(self._tracker.device))
            while len(self._features) > _FEATURES:
                self._features.popitem(last=False)
        self._features.move_to_end(index)
        return self._features[index]

    def _ready(self) -> FrameView:
        if self._view is None:
            size = self._tracker.segmenter.spec.image_size
            self._view = FrameView(self.source, self._info, size)
        return self._view

    def _frame(self, frame: int | None) -> int:
        """Number of a frame that can be read."""
        if frame is None:
            frame = (self.source.count or 1) - 1 if isinstance(self.source, LiveFrames) else 0
        frame = whole(frame)
        if frame not in self._features:
            self.source.read(frame)
        return frame

    def _remember_for_undo(self, frame: int, object_id: int) -> None:
        key = (object_id, frame)
        kept = self._track.get(frame, object_id)
        self._history.append(Before(self._bank, key, self._marks.get(key), kept))
        del self._history[:-_UNDO]

    def _warn(self) -> None:
        """Say once what the source has found out about itself."""
        for note in self.source.notes[self._warned :]:
            where = self.source.path or "this sequence"
            warnings.warn(f"{where}: {note}", DataWarning, stacklevel=3)
        self._warned = len(self.source.notes)
