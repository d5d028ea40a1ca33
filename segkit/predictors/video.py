"""Segment and track objects through videos, cine loops and volumes."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from segkit.data.options import ReadOptions
from segkit.data.video_live import LiveFrames
from segkit.data.video_open import VideoInput, open_frames
from segkit.errors import InputError
from segkit.models.build_sam2 import SAM2_BUILDERS
from segkit.models.files import load_model
from segkit.models.info import ModelInfo
from segkit.models.tracker import Tracker
from segkit.predictors.base import Device, choose_device, use_exported
from segkit.predictors.marks import Numbers
from segkit.predictors.video_session import VideoSession


class VideoPredictor:
    """A tracker and no frames: one predictor serves many sessions, from several threads.

    `open` gives sessions with segkit's own calls. The calls of SAM 2's video predictor
    (`init_state`, `add_new_points_or_box`, ...) do the same with a session as the state; there,
    coordinates are (x, y) and boxes inclusive, as in SAM 2.

    Example:
        >>> from segkit.models import build
        >>> predictor = VideoPredictor(build.sam2_test.tracker())
        >>> frames = np.zeros((5, 48, 64), dtype=np.uint8)
        >>> session = predictor.open(frames)
        >>> session.add_points([(20, 30)], [1], frame=0, object_id=7).shape
        (48, 64)
        >>> [(found.frame, list(found.masks)) for found in session.propagate(count=2)]
        [(0, [7]), (1, [7])]
        >>> live = predictor.open(None)
        >>> live.push(frames[0])
        {}
    """

    def __init__(
        self, tracker: Tracker, info: ModelInfo | None = None, *, device: Device = "auto"
    ) -> None:
        self.device = choose_device(device)
        self.tracker = tracker.eval().to(self.device)
        self.info = info

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        checkpoint: str | Path | None = None,
        device: Device = "auto",
        encoder: str | Path | None = None,
    ) -> Self:
        """Load a model known by name ("nano2", "sam2_tiny"), a run folder or an adapter file.

        `checkpoint` is the weight file of a SAM 2 that does not ship with the package. `encoder`,
        on a CPU, is an exported one to use instead of the model's own: "int8", "float32", a file.

        Raises:
            CheckpointError: The file is damaged, or made for another backbone.
            InputError: The model has no memory, or the exported encoder does not agree with it.
        """
        if (builder := SAM2_BUILDERS.get(str(model))) is not None:
            tracker = builder.tracker(checkpoint=checkpoint)
            if encoder is not None:
                device = use_exported(tracker.segmenter, None, encoder, device)
            return cls(tracker, device=device)
        segmenter, info = load_model(model, checkpoint=checkpoint)
        family = SAM2_BUILDERS.get(info.recipe.backbone.name)
        if family is None or segmenter.is_automatic:
            kind = "segments its classes without prompts" if family else "has no memory"
            raise InputError(
                f"{model} stands on {info.recipe.backbone.name} and {kind}; it cannot track",
                fix=f"use an interactive model on one of: {', '.join(SAM2_BUILDERS)}",
                code="no_tracker",
            )
        if encoder is not None:
            device = use_exported(segmenter, info, encoder, device)
        return cls(Tracker(segmenter, family.load_memory(checkpoint)), info, device=device)

    def open(
        self,
        source: VideoInput | None,
        *,
        axis: int | None = None,
        options: ReadOptions | None = None,
        spacing_mm: tuple[float, float] | None = None,
    ) -> VideoSession:
        """Start a session on a video, a folder of pictures, a cine loop, a volume or an array.

        A volume is a sequence along array `axis`, by default the one with the largest spacing.
        `None` is a live sequence: `push` its frames. `spacing_mm` (row, column) is for sources that
        do not know theirs.

        Raises:
            InputError: The source cannot be read as it is.
        """
        if source is None:
            return VideoSession(self.tracker, LiveFrames(spacing_mm=spacing_mm), self.info)
        frames = open_frames(source, axis=axis, options=options)
        frames.spacing_mm = frames.spacing_mm or spacing_mm
        return VideoSession(self.tracker, frames, self.info)

    def init_state(self, video_path: VideoInput) -> VideoSession:
        """Open a sequence; the session is what the other calls take as `state`."""
        return self.open(video_path)

    def add_new_points_or_box(
        self,
        inference_state: VideoSession,
        frame_idx: int,
        obj_id: int,
        points: Sequence[Numbers] | None = None,
        labels: Sequence[int] | None = None,
        clear_old_points: bool = True,
        box: Sequence[float] | None = None,
    ) -> tuple[int, list[int], Float[Tensor, "objects 1 height width"]]:
        """Mark an object by points (x, y) or a box (x0, y0, x1, y1) in pixels of the frame.

        Raises:
            InputError: Neither points nor box; see `VideoSession.add_points`.
        """
        session = inference_state
        if points is None and box is None:
            raise InputError("neither points nor a box was given", fix="give one of them")
        if clear_old_points and (obj_id, frame_idx) in session.marked:
            session.clear(frame_idx, obj_id)
        if box is not None:
            x0, y0, x1, y1 = np.asarray(box, dtype=float).ravel()
            session.add_box(((y0, x0), (y1 + 1, x1 + 1)), frame=frame_idx, object_id=obj_id)
        if points is not None:
            swapped = [(y, x) for x, y in np.asarray(points, dtype=float).reshape(-1, 2)]
            chosen = np.asarray(labels, dtype=int).ravel().tolist()
            session.add_points(swapped, chosen, frame=frame_idx, object_id=obj_id)
        return self._answer(session, frame_idx)

    def add_new_mask(
        self,
        inference_state: VideoSession,
        frame_idx: int,
        obj_id: int,
        mask: Bool[np.ndarray, "height width"],
    ) -> tuple[int, list[int], Float[Tensor, "objects 1 height width"]]:
        """Give the mask of an object on a frame."""
        inference_state.add_mask(np.asarray(mask, bool), frame=frame_idx, object_id=obj_id)
        return self._answer(inference_state, frame_idx)

    def propagate_in_video(
        self,
        inference_state: VideoSession,
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
        reverse: bool = False,
    ) -> Iterator[tuple[int, list[int], Float[Tensor, "objects 1 height width"]]]:
        """Track all objects; yields (frame, objects, masks as logits of +-10)."""
        count = None if max_frame_num_to_track is None else max_frame_num_to_track + 1
        for found in inference_state.propagate(start_frame_idx, count, reverse=reverse):
            yield self._answer(inference_state, found.frame)

    def remove_object(self, inference_state: VideoSession, obj_id: int) -> list[int]:
        """Forget an object; the remaining ones come back."""
        return list(inference_state.remove(obj_id).objects)

    def clear_all_prompts_in_frame(
        self, inference_state: VideoSession, frame_idx: int, obj_id: int
    ) -> None:
        """Take back the marks of an object on a frame."""
        inference_state.clear(frame_idx, obj_id)

    def reset_state(self, inference_state: VideoSession) -> None:
        """Forget all objects; the frames stay open."""
        inference_state.reset()

    def _answer(
        self, session: VideoSession, frame: int
    ) -> tuple[int, list[int], Float[Tensor, "objects 1 height width"]]:
        blank = np.zeros(session.source.size, dtype=bool)
        found = [session.track.get(frame, one) for one in session.objects]
        masks = np.stack([blank if one is None else one.runs.mask() for one in found])[:, None]
        return frame, list(session.objects), torch.from_numpy(masks).float() * 20 - 10
