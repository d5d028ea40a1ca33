"""Many inputs through one model: loaded once, failures listed, finished cases skipped."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from segkit.data.dicom import is_dicom
from segkit.data.meshes import is_mesh
from segkit.errors import InputError
from segkit.version import VERSION

VOLUME_SUFFIX, PICTURE_SUFFIX = ".nii.gz", ".png"
KNOWN_SUFFIXES = (
    ".nii.gz", ".nii", ".nrrd", ".seg.nrrd", ".mha", ".mhd", ".hdr",
    ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What became of one input: `status` is "done", "skipped" or "failed".

    `stages` says what of the seconds was spent on reading, predicting and writing; those of one
    case overlap with those of the next.
    """

    input: str
    output: str | None
    status: str
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    error: str | None = None
    sha256: str | None = None
    stages: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CohortReport:
    """`run_report.json`: versions, hashes, timings, failures.

    `inputs` counts the cases of the whole run; those of processes that are not done yet are
    missing in `cases`. `settings` holds what else decided the masks: words, and where they led.
    """

    model: str
    backbone_sha256: str
    device: str
    cases: tuple[CaseResult, ...]
    inputs: int | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    segkit_version: str = VERSION
    torch_version: str = torch.__version__
    python_version: str = field(default_factory=platform.python_version)

    @property
    def failures(self) -> tuple[CaseResult, ...]:
        """Cases that gave no mask."""
        return tuple(case for case in self.cases if case.status == "failed")

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {"format": 1, **asdict(self), "failed": len(self.failures)}


def find_inputs(paths: Sequence[str | Path]) -> list[Path]:
    """Expand folders of cases; a folder with DICOM files is one input.

    Raises:
        InputError: A path does not exist, or a folder holds nothing that can be read.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir() or is_dicom(path):
            found.append(path)
            continue
        children = [child for child in sorted(path.iterdir()) if _is_input(child)]
        if not children:
            raise InputError(
                "no image, volume or DICOM folder in this folder",
                path=path,
                fix=f"readable file types: {', '.join(KNOWN_SUFFIXES)}",
            )
        found.extend(children)
    return found


def output_path(source: Path, output: Path, suffix: str | None, *, is_single: bool) -> Path:
    """Where the mask of `source` goes: `output` itself, or a file named after the case in it."""
    if is_single and output.suffix and not output.is_dir():
        return output
    return output / (case_name(source) + (suffix or default_suffix(source)))


def check_folder(output: Path, why: str) -> None:
    """Refuse the name of a file where a folder is meant; `why` says what is written into it.

    Raises:
        InputError: It ends like an image, a volume or a surface, and is no folder.
    """
    is_file = case_name(output) != output.name or is_mesh(output)
    if is_file and not output.is_dir():
        raise InputError(
            f"{why} into a folder",
            path=output,
            fix="name a folder with -o; --format chooses the file type",
        )


def case_name(path: Path) -> str:
    """File name without its image suffix."""
    for suffix in sorted(KNOWN_SUFFIXES, key=len, reverse=True):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name


def default_suffix(path: Path) -> str:
    """Pictures give pictures, everything else NIfTI."""
    is_picture = path.suffix.lower() in (".png", ".jpg", ".jpeg", ".tif", ".tiff")
    return PICTURE_SUFFIX if is_picture else VOLUME_SUFFIX


def _is_input(path: Path) -> bool:
    if path.is_dir():
        return is_dicom(path)
    return path.name.lower().endswith(KNOWN_SUFFIXES)
