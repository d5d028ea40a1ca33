"""What a user may tell a reader about a file that cannot be read safely without it."""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from segkit.errors import InputError

Form = Literal["sform", "qform"]
ComplexPart = Literal["magnitude", "phase", "real"]


def parse_triple(text: str) -> tuple[float, float, float]:
    """Read "x,y,z"."""
    try:
        x, y, z = (float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected three numbers x,y,z, got {text!r}") from error
    return (x, y, z)


def parse_fill(text: str) -> float:
    """Read "fill=V" or "V"."""
    try:
        return float(text.removeprefix("fill="))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected fill=VALUE, got {text!r}") from error


def _flag(
    flag: str, help_: str, parse: Callable[[str], Any], choices: tuple[str, ...] = ()
) -> dict[str, object]:
    return {"flag": flag, "help": help_, "parse": parse, "choices": choices or None}


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """Options of `load`; each makes one refusal proceed. The flag names are in the metadata.

    `geometry` decides between two contradicting NIfTI frames. `spacing` is (x, y, z) in mm, the
    order of the file's axes (i, j, k), for files without a voxel size. `frame` chooses from a time
    series, a multi-page or an animated file. `nan` replaces NaN and Inf voxels. `luminance` turns
    colour volumes grey. `complex_part` is what is read of complex voxels. `max_gb` bounds the
    memory of the decoded voxels, in units of 10^9 bytes. The rest concerns DICOM folders: `series`
    chooses one, `fill_gap` and `regrid` allow missing and unevenly spaced slices, and
    `skip_unreadable` leaves out damaged files.
    """

    geometry: Form | None = field(
        default=None,
        metadata=_flag(
            "--geometry", "which of two contradicting NIfTI frames to use", str, get_args(Form)
        ),
    )
    spacing: tuple[float, float, float] | None = field(
        default=None,
        metadata=_flag("--spacing", "voxel size x,y,z in mm of a file without one", parse_triple),
    )
    frame: int | None = field(
        default=None,
        metadata=_flag("--frame", "frame of a time series or page of a stack, from 0", int),
    )
    nan: float | None = field(
        default=None,
        metadata=_flag("--nan", "value for NaN and Inf voxels, as fill=V", parse_fill),
    )
    luminance: bool = field(
        default=False, metadata=_flag("--luminance", "turn colour voxels grey", bool)
    )
    complex_part: ComplexPart | None = field(
        default=None,
        metadata=_flag("--complex", "what to read of complex voxels", str, get_args(ComplexPart)),
    )
    series: str | None = field(
        default=None,
        metadata=_flag("--series", "SeriesInstanceUID (as listed) of a DICOM folder", str),
    )
    fill_gap: bool = field(
        default=False,
        metadata=_flag("--fill-gap", "fill missing DICOM slices with declared gap slices", bool),
    )
    regrid: bool = field(
        default=False,
        metadata=_flag("--regrid", "resample unevenly spaced DICOM slices", bool),
    )
    skip_unreadable: bool = field(
        default=False,
        metadata=_flag("--skip-unreadable", "leave out DICOM files that cannot be read", bool),
    )
    max_gb: float = field(
        default=4.0,
        metadata=_flag("--max-gb", "largest size of the decoded voxels in 10^9 bytes", float),
    )

    def __post_init__(self) -> None:
        for name, allowed in (("geometry", Form), ("complex_part", ComplexPart)):
            if (value := getattr(self, name)) is not None and value not in get_args(allowed):
                raise InputError(f"{name} must be one of {get_args(allowed)}, got {value!r}")
        if self.spacing is not None and (
            len(self.spacing) != 3 or not all(0 < step < math.inf for step in self.spacing)
        ):
            raise InputError(f"spacing must be three numbers > 0 in mm, got {self.spacing}")
        if self.frame is not None and self.frame < 0:
            raise InputError(f"frame counts from 0, got {self.frame}")
        if self.nan is not None and not math.isfinite(self.nan):
            raise InputError(f"the value for NaN voxels must be finite, got {self.nan}")
        if not 0 < self.max_gb < math.inf:
            raise InputError(f"max_gb must be > 0, got {self.max_gb}")


def add_read_arguments(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Offer each field of `ReadOptions` under its flag."""
    for option in fields(ReadOptions):
        about = option.metadata
        if about["parse"] is bool:
            parser.add_argument(
                about["flag"], dest=option.name, action="store_true", help=about["help"]
            )
        else:
            parser.add_argument(
                about["flag"],
                dest=option.name,
                type=about["parse"],
                default=option.default,
                choices=about["choices"],
                help=about["help"],
            )


def read_options_from(namespace: argparse.Namespace) -> ReadOptions:
    """Options from what `add_read_arguments` parsed."""
    return ReadOptions(**{one.name: getattr(namespace, one.name) for one in fields(ReadOptions)})
