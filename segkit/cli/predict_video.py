"""`segkit predict` on videos: objects marked on some frames, masks on all."""

import argparse
import json
import platform
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segkit.cli.arguments.predict import AXES
from segkit.cli.predict_cohort import settings_key
from segkit.data.atomic import atomic_file
from segkit.data.options import read_options_from
from segkit.data.readers import load
from segkit.data.video_file import is_video
from segkit.data.volume import Picture
from segkit.errors import InputError, SegkitError
from segkit.predictors.base import encoder_report
from segkit.predictors.cohort import case_name
from segkit.predictors.video import VideoPredictor
from segkit.predictors.video_labels import is_volume_file
from segkit.predictors.video_masks import FrameMasks
from segkit.predictors.video_output import MASKS, VideoWriter
from segkit.predictors.video_session import VideoSession
from segkit.version import VERSION

REPORT = "run_report.json"
_WITHOUT_EFFECT = (
    "lasso", "scribble", "propagate", "slices", "format", "shard", "ensemble", "mirror", "label",
    "uncertainty", "text", "words", "zoom",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FramePrompt:
    """Numbers of one option with the frame, the object and the label behind them."""

    numbers: tuple[float, ...]
    frame: int
    object: int
    label: int


_NAMES_A_FRAME = re.compile(r"[^,@]+,[^,@]+(,[^,@]+,[^,@]+)?@\d+([:#].*)?")


def is_sequence(args: argparse.Namespace) -> bool:
    """Whether the inputs of `segkit predict` are to be tracked through.

    Raises:
        InputError: They are not, and an option is for sequences only.
    """
    marks = [*args.point, *args.box]
    names_frames = any(_NAMES_A_FRAME.fullmatch(mark) for mark in marks)
    found = names_frames or any(is_video(Path(one)) for one in args.inputs)
    if args.direction and not found:
        raise InputError(
            "--direction is for videos, and no prompt names a frame",
            fix="mark an object as --point x,y@FRAME; slices of one volume: --propagate",
        )
    return found


def run(args: argparse.Namespace) -> int:
    """Track the marked objects through every input; exit code 1 if one of several failed."""
    points = [parse_prompt("--point", text, 2) for text in args.point]
    boxes = [parse_prompt("--box", text, 4) for text in args.box]
    outputs = _outputs(args)
    predictor = VideoPredictor.from_pretrained(
        args.model, checkpoint=args.checkpoint, device=args.device, encoder=args.encoder
    )
    about = _about(args, predictor)
    reports: list[dict[str, Any]] = []
    for source, output in zip(map(Path, args.inputs), outputs, strict=True):
        if args.resume and (done := _finished(output, about)) is not None:
            reports.append({**done, "status": "skipped"})
            continue
        try:
            session = predictor.open(
                source, axis=AXES.get(args.axis), options=read_options_from(args)
            )
            _mark(session, points, boxes, args.mask)
            reports.append(_track(session, source, output, args.direction or "forward", about))
        except SegkitError as error:
            if len(outputs) == 1:
                raise
            sys.stderr.write(f"error: {error}\n")
            reports.append({"input": str(source), "status": "failed", "error": str(error)})
    whole = {"format": 1, **about, "cases": reports}
    whole["failed"] = sum(one["status"] == "failed" for one in reports)
    if len(outputs) > 1:
        _write_report(args.output, whole)
    if args.json:
        sys.stdout.write(json.dumps(whole, indent=2) + "\n")
    return 1 if whole["failed"] else 0


def _outputs(args: argparse.Namespace) -> list[Path]:
    """Where each input goes, once everything about the command has been checked."""
    if ignored := [f"--{name}" for name in _WITHOUT_EFFECT if getattr(args, name)]:
        raise InputError(
            f"{', '.join(ignored)}: no effect on a sequence of frames", fix="leave it out"
        )
    if args.space != "voxel":
        raise InputError("prompts on frames are in pixels", fix="leave --space out")
    is_file = bool(args.output.suffix) and not args.output.is_dir()
    if is_file and args.output.suffix.lower() != ".mp4" and not is_volume_file(args.output):
        raise InputError(
            f"a video is written as .mp4 or into a folder, not as {args.output.suffix}",
            fix="-o out.mp4 or -o out/",
        )
    if len(args.inputs) == 1:
        return [args.output]
    if is_file:
        raise InputError("several inputs need an output folder", fix="-o out/")
    outputs = [args.output / _name(Path(one)) for one in args.inputs]
    if clash := sorted({str(one) for one in outputs if outputs.count(one) > 1}):
        raise InputError(f"several inputs would be written to {clash[0]}", fix="rename them")
    return outputs


def _name(source: Path) -> str:
    name = case_name(source)
    return source.stem if name == source.name and not source.is_dir() else name


def _about(args: argparse.Namespace, predictor: VideoPredictor) -> dict[str, Any]:
    """What made the masks, for the report."""
    recipe = predictor.tracker.segmenter.recipe
    return {
        "model": args.model,
        "backbone_sha256": "" if recipe is None else recipe.backbone.sha256,
        "device": str(predictor.device),
        "settings_sha256": settings_key(args),
        "segkit_version": VERSION,
        "torch_version": torch.__version__,
        "python_version": platform.python_version(),
        **encoder_report(predictor.tracker.segmenter),
    }


def _finished(output: Path, about: dict[str, Any]) -> dict[str, Any] | None:
    """Report of an input that is done, with this model and these settings; else None.

    A single file says nothing about how it was made: that it is there is enough.
    """
    if output.suffix and not output.is_dir():
        return {"output": str(output)} if output.exists() else None
    path = output / REPORT
    if not path.exists() or not (output / MASKS).exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    is_same = isinstance(found, dict) and found.get("settings_sha256") == about["settings_sha256"]
    return found if is_same else None


def parse_prompt(option: str, text: str, count: int) -> FramePrompt:
    """Read "x,y@frame[:label][#object]".

    Raises:
        InputError: It does not have this form.
    """
    rest, _, number = text.partition("#")
    rest, _, label = rest.partition(":")
    position, _, frame = rest.partition("@")
    try:
        numbers = tuple(float(part) for part in position.split(","))
        found = FramePrompt(numbers, int(frame or 0), int(number or 1), int(label or 1))
    except ValueError:
        numbers, found = (), None
    if found is None or len(numbers) != count or found.label not in (0, 1) or found.frame < 0:
        shape = "x,y" if count == 2 else "x0,y0,x1,y1"
        raise InputError(
            f"{option} {text}: expected {shape}@FRAME[:0|1][#OBJECT] with whole numbers behind "
            "the @",
            fix=f"e.g. {option} {'120,80' if count == 2 else '10,20,60,90'}@0",
        )
    return found


def _mark(
    session: VideoSession,
    points: Sequence[FramePrompt],
    boxes: Sequence[FramePrompt],
    mask: Path | None,
) -> None:
    if mask is not None:
        name, _, at = str(mask).partition("@")
        picture = load(Path(name))
        if not isinstance(picture, Picture) or picture.array.ndim != 2:
            raise InputError("a mask for a frame is a grey picture", path=Path(name))
        session.add_mask(np.asarray(picture.array > 0), frame=int(at or 0))
    for one in boxes:
        x0, y0, x1, y1 = one.numbers
        session.add_box(((y0, x0), (y1, x1)), frame=one.frame, object_id=one.object)
    # clicks of one object on one frame belong together: the first alone would be ambiguous
    places = list(dict.fromkeys((one.frame, one.object) for one in points))
    for frame, number in places:
        chosen = [one for one in points if (one.frame, one.object) == (frame, number)]
        session.add_points(
            [one.numbers[::-1] for one in chosen],
            [one.label for one in chosen],
            frame=frame,
            object_id=number,
        )


def _track(
    session: VideoSession, source: Path, output: Path, direction: str, about: dict[str, Any]
) -> dict[str, Any]:
    """Follow the objects of one input and write what is found."""
    start, count = time.perf_counter(), 0
    with VideoWriter(output, session.source, session.track) as writer:
        for found in _passes(session, direction):
            writer.write(found)
            count += 1
    notes = list(session.source.notes)
    first = min((frame for _, frame in session.marked), default=0)
    if first and direction == "forward":
        notes.append(
            f"frames before {first}, the first that is marked, have no masks; --direction both "
            "follows the objects there, too"
        )
        sys.stderr.write(f"note: {notes[-1]}\n")
    seconds = time.perf_counter() - start
    sys.stderr.write(f"{output} ({count} frames, {seconds:.1f} s)\n")
    report = {
        "input": str(source),
        "output": str(output),
        "status": "done",
        "frames": count,
        "objects": list(session.objects),
        "seconds": round(seconds, 3),
        "notes": notes,
    }
    if not output.suffix or output.is_dir():
        _write_report(output, {"format": 1, **about, **report})
    return report


def _passes(session: VideoSession, direction: str) -> Iterator[FrameMasks]:
    """Frames in their order, whatever the order they are tracked in."""
    first = min((frame for _, frame in session.marked), default=0)
    if direction == "forward" or (direction == "both" and not first):
        yield from session.propagate()
        return
    if direction == "both":
        for _ in session.propagate():
            pass
        start = first - 1
    else:
        start = max((frame for _, frame in session.marked), default=0)
    for _ in session.propagate(start, reverse=True):
        pass
    yield from session.results()


def _write_report(folder: Path, report: dict[str, Any]) -> None:
    with atomic_file(folder / REPORT) as file:
        file.write((json.dumps(report, indent=2) + "\n").encode())
