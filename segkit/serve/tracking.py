"""Carry objects from a few marked frames through a recording, or through the slices of a volume."""

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import UInt8
from pydantic import Field

from segkit.data.video import FrameSource, VolumeFrames
from segkit.data.volume import Volume
from segkit.predictors.video import VideoPredictor
from segkit.predictors.video_masks import FrameMasks
from segkit.predictors.video_session import VideoSession
from segkit.serve import jobs
from segkit.serve.engine import Engine, Lease
from segkit.serve.faults import Refusal, bad
from segkit.serve.messages import Edge, Message, Name, Number
from segkit.serve.worker import Task
from segkit.serve.workspace import Workspace

Place = tuple[Number, Number]
Index = Annotated[int, Field(ge=0, lt=2**31)]


class Seed(Message):
    """What an object is on one frame: points (row, column), a half-open box, or a session's mask.

    `session` names an object that was segmented on the volume; its mask on the frame is taken.
    """

    object: Annotated[int, Field(ge=1, le=255)] = 1
    frame: Index
    points: Annotated[tuple[Place, ...], Field(max_length=256)] = ()
    labels: tuple[Literal[0, 1], ...] = ()
    box: tuple[Edge, Edge] | None = None
    session: Name | None = None


class Track(Message):
    """Body of POST /tracks: a `clip`, or an `image` that is a volume, along array `axis`.

    Frames from `start` to before `stop` are tracked, away from the first one marked: "forward",
    "backward" or "both".
    """

    clip: Name | None = None
    image: Name | None = None
    axis: Literal[0, 1, 2] | None = None
    model: Name | None = None
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1, max_length=1024)]
    start: Index | None = None
    stop: Index | None = None
    direction: Literal["forward", "backward", "both"] = "both"


@dataclass(frozen=True, slots=True)
class Pass:
    """Frames in one direction from `first`; `count` None goes to the end."""

    first: int
    count: int | None
    is_reverse: bool


def start_tracking(engine: Engine, lease: Lease, wish: Track) -> jobs.Job:
    """Put a job in line that gives a label map: frames, rows, columns, or the grid of the volume.

    Where objects overlap, the higher number is on top. Of a file whose length nobody knows yet, the
    frames up to the last one tracked come.

    Raises:
        Refusal: 400; the model has no memory, a seed says nothing, or no sequence is named. 404;
            there is no such clip, image, session or model.
    """
    frames = _frames(lease.workspace, wish)
    resident = engine.residents.find_tracker(wish.model)
    for seed in wish.seeds:
        _check(seed, lease.workspace, wish)
    limit = engine.settings.limits.array
    return jobs.start(
        engine,
        lease,
        "track",
        lambda task: _work(resident.tracker(), frames, lease.workspace, wish, task, limit),
        {"model": resident.id, "axis": getattr(frames, "axis", None)},
    )


def _frames(space: Workspace, wish: Track) -> FrameSource:
    if (wish.clip is None) == (wish.image is None):
        raise bad("name a clip or an image, one of them", "bad_field")
    if wish.clip is not None:
        return space.clip(wish.clip).source
    source = space.image(wish.image or "").source
    if not isinstance(source, Volume):
        raise bad("a picture has one frame; there is nothing to track", "not_a_volume")
    return VolumeFrames(source, wish.axis)


def _check(seed: Seed, space: Workspace, wish: Track) -> None:
    kinds = (bool(seed.points), seed.box is not None, seed.session is not None)
    if sum(kinds) == 0 or (seed.session is not None and sum(kinds) > 1):
        raise bad("a seed is points, a box, both of them, or a session", "bad_field")
    if len(seed.points) != len(seed.labels):
        raise bad(f"{len(seed.points)} points have {len(seed.labels)} labels", "bad_field")
    if seed.session is not None and space.item(seed.session).image_id != wish.image:
        raise bad("the session of a seed must be one of the image", "bad_field")


def _work(
    predictor: VideoPredictor,
    frames: FrameSource,
    space: Workspace,
    wish: Track,
    task: Task[Any],
    limit: int,
) -> UInt8[np.ndarray, "..."]:
    session = predictor.open(frames)
    for seed in wish.seeds:
        task.check()
        _mark(session, frames, seed, space)
    total = 0 if frames.count is None else sum(_length(one, frames) for one in _passes(wish))
    found: dict[int, UInt8[np.ndarray, "rows columns"]] = {}
    with closing(_tracked(session, wish)) as results:
        for done, result in enumerate(results):
            found[result.frame] = _labels(result, frames.size)
            if len(found) * frames.size[0] * frames.size[1] > limit:
                text = f"the masks exceed {limit} bytes; track fewer frames"
                raise Refusal(413, text, "too_large")
            task.step(done + 1, max(total, done + 1))
    last = max(found) if frames.count is None else frames.count - 1
    stack = np.zeros((last + 1, *frames.size), dtype=np.uint8)
    for frame, labels in found.items():
        stack[frame] = labels
    axis = frames.axis if isinstance(frames, VolumeFrames) else 0
    return np.ascontiguousarray(np.moveaxis(stack, 0, axis))


def _tracked(session: VideoSession, wish: Track) -> Generator[FrameMasks, None, None]:
    for one in _passes(wish):
        # closed also when the job is called off: a thread reads ahead
        frames = session.propagate(one.first, one.count, reverse=one.is_reverse)
        with closing(frames):  # type: ignore[type-var]
            yield from frames


def _passes(wish: Track) -> list[Pass]:
    first = min(seed.frame for seed in wish.seeds)
    found = []
    if wish.direction != "backward":
        count = None if wish.stop is None else wish.stop - first
        found.append(Pass(first, count, is_reverse=False))
    if wish.direction != "forward":
        begin = max(seed.frame for seed in wish.seeds) if wish.direction == "backward" else first
        found.append(Pass(begin, begin - (wish.start or 0) + 1, is_reverse=True))
    return [one for one in found if one.count is None or one.count > 0]


def _length(one: Pass, frames: FrameSource) -> int:
    left = one.first + 1 if one.is_reverse else (frames.count or 0) - one.first
    return left if one.count is None else min(left, one.count)


def _mark(session: VideoSession, frames: FrameSource, seed: Seed, space: Workspace) -> None:
    where = {"frame": seed.frame, "object_id": seed.object}
    if seed.session is not None:
        assert isinstance(frames, VolumeFrames)
        mask = np.moveaxis(space.item(seed.session).annotation.mask(), frames.axis, 0)
        frames.read(seed.frame)  # says in words that there is no such frame
        session.add_mask(np.ascontiguousarray(mask[seed.frame]), **where)
        return
    if seed.box is not None:
        (top, bottom), (left, right) = seed.box
        session.add_box(((top, left), (bottom, right)), **where)
    if seed.points:
        session.add_points(seed.points, seed.labels, **where)


def _labels(result: FrameMasks, size: tuple[int, int]) -> UInt8[np.ndarray, "rows columns"]:
    labels = np.zeros(size, dtype=np.uint8)
    for number, mask in sorted(result.masks.items()):
        labels[mask] = number
    return labels
