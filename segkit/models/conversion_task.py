"""What the families of `segkit.models.conversion` share: the task, the record, SAM's keys."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from segkit.backbones.checkpoints import KeyReport, WeightFile, read_weights, write_safetensors
from segkit.backbones.sam_modules import SIZES, SamModules, SamSizes
from segkit.errors import CheckpointError

_DATA_PARALLEL = "module."


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was converted; `filled` maps keys the source lacks to what stands in their place."""

    family: str
    backbone: str
    source: str
    source_sha256: str
    tensors: int
    outputs: Mapping[str, str]
    filled: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Write the record."""
        return json.dumps({"format": 1, **asdict(self)})


@dataclass(frozen=True)
class Task:
    """One call of `convert`: `path` to `out`.

    `backbone` is a name of `segkit.models.build.BUILDERS`, or None to find it by the keys.
    `checkpoint` is the weight file of the backbone a method was trained on, if it was given.
    """

    family: str
    path: Path
    out: Path
    backbone: str | None
    checkpoint: Path | None

    @cached_property
    def weights(self) -> WeightFile:
        """Content of `path`, read once."""
        return read_weights(self.path, allow_torch=True)

    @property
    def beside(self) -> Path:
        """Where the weight file of the backbone goes, for methods that become two files."""
        return self.out.with_name(f"{self.out.stem}.backbone.safetensors")

    def state(self) -> dict[str, Tensor]:
        """Tensors of the source without the prefix that data-parallel training adds."""
        state = self.weights.tensors
        if all(key.startswith(_DATA_PARALLEL) for key in state):
            return {key.removeprefix(_DATA_PARALLEL): value for key, value in state.items()}
        return dict(state)

    def write_weights(self, out: Path, state: Mapping[str, Tensor]) -> None:
        """Write a weight file that says what it was made from."""
        origin = {"family": self.family, "source": self.path.name, "sha256": self.weights.sha256}
        write_safetensors(out, state, {"segkit_convert": json.dumps(origin)})

    def record(self, backbone: str, outputs: Mapping[str, Path], **more: object) -> Conversion:
        """Describe what was done; `more` are the other fields of `Conversion`."""
        return Conversion(
            self.family,
            backbone,
            str(self.path),
            self.weights.sha256,
            len(self.weights.tensors),
            {kind: str(path) for kind, path in outputs.items()},
            **more,  # type: ignore[arg-type]
        )


def sam_state(sizes: SamSizes) -> dict[str, Tensor]:
    """Keys and shapes of a SAM file, without values."""
    with torch.device("meta"):
        return SamModules(sizes).state_dict()


def find_sam(state: Mapping[str, Tensor], task: Task, lacks: tuple[str, ...] = ()) -> SamSizes:
    """Find the SAM whose keys and shapes these are; keys that start with `lacks` are not asked for.

    Raises:
        CheckpointError: There is none; the message says how the nearest differs.
    """
    expected = {
        name: {k: v for k, v in sam_state(sizes).items() if not k.startswith(lacks)}
        for name, sizes in SIZES.items()
        if task.backbone in (None, name)
    }
    return SIZES[find_layout(expected, state, task)]


def find_layout(
    layouts: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Tensor], task: Task
) -> str:
    """Name of the layout, by backbone name, that has exactly these keys and shapes.

    Raises:
        CheckpointError: There is none; the message says how the nearest differs.
    """
    reports = {name: KeyReport.compare(expected, state) for name, expected in layouts.items()}
    if not reports:
        raise CheckpointError(
            f"{task.family!r} does not come on the backbone {task.backbone!r}",
            fix="leave --backbone out, or name one of the family's",
            path=task.path,
        )
    name = min(reports, key=lambda name: _differences(reports[name]))
    if not reports[name]:
        return name
    raise CheckpointError(
        f"keys are not those of {task.family!r} on {name}: {reports[name].text()}",
        fix="choose the family, and with --backbone the size, the file was made for",
        path=task.path,
        code="keys_differ",
    )


def complete_sam(state: dict[str, Tensor], sizes: SamSizes, task: Task) -> dict[str, str]:
    """Add what `state` lacks from the SAM file of the task, or zeros, and say what came from where.

    Raises:
        CheckpointError: The image encoder of the SAM file differs from the one in `state`.
    """
    expected = sam_state(sizes)
    missing = [key for key in expected if key not in state]
    if task.checkpoint is None:
        state.update({key: torch.zeros(expected[key].shape) for key in missing})
        return dict.fromkeys(missing, "zeros; not used without prompts")
    official = read_weights(task.checkpoint, allow_torch=True).tensors
    KeyReport.compare(expected, official).raise_if_any(task.checkpoint)
    frozen = [key for key in state if key.startswith("image_encoder.")]
    if changed := [key for key in frozen if not torch.equal(state[key], official[key])]:
        raise CheckpointError(
            f"{len(changed)} frozen tensors differ from {task.checkpoint}, the first is "
            f"{changed[0]}",
            fix="give the SAM file it was trained on, or leave --checkpoint out",
            path=task.path,
            code="other_backbone",
        )
    state.update({key: official[key] for key in missing})
    return dict.fromkeys(missing, f"from {task.checkpoint.name}")


def _differences(report: KeyReport) -> int:
    return len(report.missing) + len(report.unexpected) + len(report.mismatched or ())
