"""`segkit predict` on videos: objects marked on some frames, masks on all."""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segkit.data.atomic import atomic_file
from segkit.data.options import read_options_from
from segkit.data.readers import load
from segkit.data.video_file import is_video
from segkit.data.volume import Picture
from segkit.errors import InputError
from segkit.predictors.video import VideoPredictor
from segkit.predictors.video_output import VideoWriter
from segkit.predictors.video_session import VideoSession

EXAMPLE = """videos (an input is a video file, or a prompt is x,y@FRAME):
  segkit predict clip.mp4 -m nano2 -o out.mp4 --point 120,80@0
  segkit predict clip.mp4 -m nano2 -o out/ --box 10,20,60,90@0#1 --point 200,40@12:0#2
Prompts are x,y@FRAME[:0|1][#OBJECT]; OUT is an .mp4 or a folder (masks.jsonl, frames.csv, overlay).
Sources are videos, folders of pictures, DICOM cine, and volumes as sequences of slices."""


@dataclass(frozen=True, slots=True)
class FramePrompt:
    """Numbers of one option with the frame, the object and the label behind them."""

    numbers: tuple[float, ...]
    frame: int
    object: int
    label: int


_NAMES_A_FRAME = re.compile(r"[^,@]+,[^,@]+(,[^,@]+,[^,@]+)?@\d+([:#].*)?")


def is_sequence(args: argparse.Namespace) -> bool:
    """Whether the inputs of `segkit predict` are to be tracked through."""
    marks = [*args.point, *args.box]
    names_frames = any(_NAMES_A_FRAME.fullmatch(mark) for mark in marks)
    return names_frames or any(is_video(Path(one)) for one in args.inputs)


def run(args: argparse.Namespace) -> int:
    """Track the marked objects through every input; exit code 0, errors are raised."""
    points = [parse_prompt("--point", text, 2) for text in args.point]
    boxes = [parse_prompt("--box", text, 4) for text in args.box]
    if args.space != "voxel":
        raise InputError("prompts on frames are in pixels", fix="leave --space out")
    if args.output.suffix.lower() not in ("", ".mp4"):
        raise InputError(
            f"a video is written as .mp4 or into a folder, not as {args.output.suffix}",
            fix="-o out.mp4 or -o out/",
        )
    if args.output.suffix and len(args.inputs) > 1:
        raise InputError("several inputs need an output folder", fix="-o out/")
    predictor = VideoPredictor.from_pretrained(
        args.model, checkpoint=args.checkpoint, device=args.device
    )
    reports = []
    for source in map(Path, args.inputs):
        output = args.output if len(args.inputs) == 1 else args.output / source.stem
        session = predictor.open(source, options=read_options_from(args))
        _mark(session, points, boxes, args.mask)
        reports.append(_track(session, source, output))
    if args.json:
        sys.stdout.write(json.dumps({"format": 1, "cases": reports}, indent=2) + "\n")
    return 0


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


def _track(session: VideoSession, source: Path, output: Path) -> dict[str, object]:
    count = 0
    with VideoWriter(output, session.source, session.track) as writer:
        for found in session.propagate():
            writer.write(found)
            count += 1
    sys.stderr.write(f"{output} ({count} frames)\n")
    report = {
        "input": str(source),
        "output": str(output),
        "frames": count,
        "objects": list(session.objects),
        "notes": list(session.source.notes),
    }
    if not output.suffix:
        with atomic_file(output / "run_report.json") as file:
            file.write(json.dumps({"format": 1, **report}, indent=2).encode())
    return report
