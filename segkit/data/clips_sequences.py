"""Which frames make a clip: files of one subject in order, or the slices of one volume."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from segkit.data.cases import Case
from segkit.errors import InputError

Along = Literal["time", "slices"]
_NUMBER = re.compile(r"(\d+)\D*$")


@dataclass(frozen=True, slots=True)
class ClipSpec:
    """How frames become clips, and clips training windows.

    The pictures of one group (a patient's folder) are one clip in the order of their numbers. With
    `period` P they are a cine stack numbered from 1, P frames per place: `along` "time" makes one
    clip per place of the frames that are there, "slices" one per phase, through all places. Both
    may be asked for at once. A case with several slices (a volume, or a video stored as one) is
    one clip of its slices. Clips shorter than 2 frames are left out.

    An epoch draws `windows` of each clip. `frames` is the length of a training window, `max_step`
    how many frames apart two of its frames may be, `reverse` whether it may run backwards. Clips
    shorter than a window go there and back.
    """

    frames: int = 8
    windows: int = 1
    max_step: int = 1
    reverse: bool = False
    period: int | None = None
    along: Sequence[Along] = ("time",)

    def __post_init__(self) -> None:
        if self.frames < 2 or min(self.max_step, self.windows) < 1:
            raise InputError(
                "clips need frames >= 2, max_step >= 1 and windows >= 1, got "
                f"{self.frames}, {self.max_step} and {self.windows}"
            )
        if self.period is not None and self.period < 2:
            raise InputError(f"period must be >= 2 frames, got {self.period}")
        if not self.along or set(self.along) - set(get_args(Along)):
            raise InputError(
                f"along={list(self.along)} is no way through a recording",
                fix=f"allowed: one or several of {list(get_args(Along))}",
            )
        if self.period is None and "slices" in self.along:
            raise InputError(
                "along='slices' needs the number of frames per slice",
                fix="give period=P",
                option="period",
            )


@dataclass(frozen=True, slots=True)
class FrameSequence:
    """Frames of one clip as (case, slice) positions, in order."""

    name: str
    group: str
    frames: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.frames)


def find_sequences(
    cases: Sequence[Case], slices: Sequence[int], spec: ClipSpec
) -> list[FrameSequence]:
    """List the clips among `cases`; `slices` counts the slices of each.

    Raises:
        InputError: No clip has two frames, or the name of a frame holds no number.
    """
    found: list[FrameSequence] = []
    pictures: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for index, (case, count) in enumerate(zip(cases, slices, strict=True)):
        if count > 1:
            frames = tuple((index, number) for number in range(count))
            found.append(FrameSequence(case.id, case.group, frames))
        else:
            pictures[case.group].append((_number(case), index))
    for group, numbered in pictures.items():
        found += _of_group(group, sorted(numbered), spec)
    found = [sequence for sequence in found if len(sequence) > 1]
    if not found:
        raise InputError(
            f"no clip of two or more frames among {len(cases)} cases",
            fix="clips are the pictures of one group (data.group_by, or a folder per patient), or "
            "the slices of one volume",
            code="no_clips",
        )
    return found


def _of_group(
    group: str, numbered: Sequence[tuple[int, int]], spec: ClipSpec
) -> list[FrameSequence]:
    if spec.period is None:
        return [FrameSequence(group, group, tuple((index, 0) for _, index in numbered))]
    clips: list[FrameSequence] = []
    for along in spec.along:
        members: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for number, index in numbered:
            place, phase = divmod(number - 1, spec.period)
            members[place if along == "time" else phase].append((index, 0))
        mark = "slice" if along == "time" else "phase"
        clips += [
            FrameSequence(f"{group}_{mark}{key:02d}", group, tuple(frames))
            for key, frames in sorted(members.items())
        ]
    return clips


def _number(case: Case) -> int:
    name = case.image[0].name.split(".")[0]
    if (found := _NUMBER.search(name)) is None:
        raise InputError(
            f"the name of frame {case.image[0].name!r} holds no number",
            path=case.image[0],
            fix="number the frames of a clip: 0001.png, 0002.png, ...",
            code="frame_name",
        )
    return int(found[1])


def draw_window(
    length: int, starts: Sequence[int], spec: ClipSpec, rng: np.random.Generator
) -> list[int]:
    """Positions of a training window of `spec.frames` frames that begins at one of `starts`."""
    start = int(rng.choice(np.asarray(starts)))
    step = int(rng.integers(1, spec.max_step + 1))
    if spec.reverse and rng.random() < 0.5:
        step = -step
    # there and back again: the path of a reflected walk
    turn = 2 * (length - 1)
    walk = (start + step * np.arange(spec.frames)) % turn
    return np.minimum(walk, turn - walk).tolist()
