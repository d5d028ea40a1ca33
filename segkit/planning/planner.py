"""Plan an experiment for a data set: fingerprint, rules, and a measured training step."""

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from segkit.data.datasets import PAIRS, Dataset
from segkit.errors import DataWarning, InputError
from segkit.planning.dry_step import DryStep, Question, measure
from segkit.planning.experiment import write_experiment
from segkit.planning.fingerprint import (
    Fingerprint,
    Progress,
    propose_groups,
    take_fingerprint,
)
from segkit.planning.request import Decision, PlanRequest
from segkit.planning.rules import decide, objects_at_once
from segkit.version import VERSION

FORMAT = 1
_MIB, _GB = 2**20, 1e9
_MARGIN = 0.8  # of the memory; the rest is for the trainer, its data and its logs
_STEPS = 2000  # of the optimiser, where no time is given
_MOST_EPOCHS = 100
_FEWEST_STEPS = 300  # with fewer, more of them are worth more than more images in each
_LOG_EVERY = 10  # steps, as the trainer does by itself
_VALIDATIONS = 4  # at least, in a run of limited time
_VALIDATED = 0.3  # of a short run at most goes into validation
_FORWARD = 0.35  # of a training step is spent without its backward pass
_PAIRED = {"hippocampus": "ids 2k-1 and 2k are the two sides of one person (Decathlon, Task04)"}


@dataclass(frozen=True, slots=True)
class Plan:
    """Settings with reasons, the fingerprint they come from, and the steps that were measured."""

    decisions: tuple[Decision, ...]
    fingerprint: Fingerprint
    steps: tuple[DryStep, ...]
    memory_mib: float

    def value(self, key: str, default: Any = None) -> Any:
        """What was decided on a setting."""
        return next((one.value for one in self.decisions if one.key == key), default)

    def to_dict(self) -> dict[str, object]:
        """The document of `plan.json`; no names of folders, cases only where they are damaged."""
        return {
            "format": FORMAT,
            "segkit_version": VERSION,
            "decisions": [dict(one.to_dict()) for one in self.decisions],
            "dry_steps": [
                {"batch": one.batch, "peak_mib": one.peak_mib, "seconds": one.seconds}
                for one in self.steps
            ],
            "memory_mib": round(self.memory_mib),
            "fingerprint": json.loads(json.dumps(self.fingerprint.to_dict())),
        }

    def write(self, path: str | Path) -> Path:
        """Write the experiment that `segkit train experiment=FILE` runs.

        Raises:
            InputError: The name does not end in .yaml.
        """
        return write_experiment(Path(path), self.decisions, self.to_dict())


def plan(
    root: str | Path, request: PlanRequest | None = None, *, progress: Progress | None = None
) -> Plan:
    """Look at a data set and decide how to train on it.

    `progress` is called with the cases measured and all that will be.

    Raises:
        InputError: The data set cannot be read, or not even one image fits into the memory.
    """
    request = request or PlanRequest()
    dataset, findings = _find(Path(root), request)
    found = take_fingerprint(dataset, findings=findings, most=request.cases, progress=progress)
    found, decided = _with_groups(Path(root), request, dataset, found)
    decisions = [*_source(request), *decide(found, request), *decided]
    memory = _memory_mib(request)
    question = _question(decisions, found, request)
    target = _target_batch(found, decisions)
    steps = measure(question, _batches(target), _MARGIN * memory)
    hurry = _hurry(steps, target, request)
    decisions += _batch(steps, target // 2 if hurry else target, memory, question, hurry)
    decisions += _length(found, decisions, steps, request)
    return Plan(tuple(decisions), found, tuple(steps), memory)


def _find(root: Path, request: PlanRequest) -> tuple[Dataset, list[str]]:
    """List the cases; warnings about copies become findings, without the folder's name."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        dataset = request.source.find(root)
    found = [str(one.message) for one in caught if issubclass(one.category, DataWarning)]
    return dataset, [text.removeprefix(f"{root}: ") for text in found]


def _with_groups(
    root: Path, request: PlanRequest, dataset: Dataset, found: Fingerprint
) -> tuple[Fingerprint, list[Decision]]:
    """Tell subjects from ids where nothing else does, and count them; a leak becomes a finding."""
    if dataset.is_grouped:
        return found, []
    pattern, reason = _known_groups(root) or propose_groups(dataset.cases.get("train", ()))
    if pattern is None:
        return found, []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)
            grouped = replace(request.source, group_by=pattern).find(root)
    except InputError as error:
        leak = f"ids suggest subjects ({reason}), but {error.cause}"
        return replace(found, findings=(*found.findings, leak)), []
    subjects = {name: len({c.group for c in cases}) for name, cases in grouped.cases.items()}
    return replace(found, group_by=pattern, group_reason=reason, subjects=subjects), []


def _known_groups(root: Path) -> tuple[str, str] | None:
    """Public sets whose ids are known to hide subjects."""
    path = root / "dataset.json"
    if not path.is_file():
        return None
    name = json.loads(path.read_text(encoding="utf-8")).get("name", "")
    return (PAIRS, _PAIRED[name.lower()]) if str(name).lower() in _PAIRED else None


def _source(request: PlanRequest) -> list[Decision]:
    """How the data were read for the plan, so that training reads them so too."""
    source = request.source
    given = {
        "layout": None if source.layout == "auto" else source.layout,
        "group_by": source.group_by,
        "label_folder": source.label_folder,
        "labels": None if source.labels is None else dict(source.labels),
    }
    return [
        Decision(f"data.{name}", value, "as given")
        for name, value in given.items()
        if value is not None
    ]


def _memory_mib(request: PlanRequest) -> float:
    """Memory that training may use: what is given, else what is free now."""
    if request.memory_gb is not None:
        return request.memory_gb * _GB / _MIB
    if _device(request) == "cuda":
        return torch.cuda.mem_get_info()[0] / _MIB
    return _free_mib()


def _free_mib() -> float:
    """Free memory of the machine, or of the container it is limited to."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _MIB]
    meminfo, limit = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
    if meminfo.is_file():
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines() if ":" in line)
        found.append(int(lines["MemAvailable"].split()[0]) / 2**10)
    if limit.is_file() and (text := limit.read_text().strip()).isdecimal():
        found.append(int(text) / _MIB)
    return min(found)


def _device(request: PlanRequest) -> str:
    if request.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return request.device


def _question(decisions: Sequence[Decision], found: Fingerprint, request: PlanRequest) -> Question:
    told = {one.key: one.value for one in decisions}
    arguments = {"ratio": told["adapter.ratio"]} if "adapter.ratio" in told else {}
    return Question(
        backbone=request.model,
        adapter=str(told["/adapter"]),
        arguments=arguments,
        classes=len(found.classes) if told["/prompt"] == "automatic" else 0,
        size=int(str(told["data.size"])),
        device=_device(request),
        threads=torch.get_num_threads(),
        objects=objects_at_once(found),
    )


def _target_batch(found: Fingerprint, decisions: Sequence[Decision]) -> int:
    """Slices resemble each other, pictures differ; large ones take long."""
    told = {one.key: one.value for one in decisions}
    if int(str(told["data.size"])) > 256:
        return 4
    return 16 if found.dimensions == 3 else 8


def _batches(target: int) -> list[int]:
    return sorted({1, max(1, target // 4), max(1, target // 2), target})


def _hurry(steps: Sequence[DryStep], target: int, request: PlanRequest) -> str:
    """Why the time asks for smaller batches; empty where it does not.

    The first few hundred updates of an adapter and its queries move far more than the noise of
    their gradients. Halved once only: a Dice of one or two images is mostly that noise.
    """
    if request.minutes is None or target < 2:
        return ""
    largest = max(steps, key=lambda one: one.batch)
    updates = request.minutes * 60 / (largest.seconds * target / largest.batch)
    if updates >= _FEWEST_STEPS:
        return ""
    return f"; {target} images in each would leave time for {updates:.0f} updates, so half of them"


def _batch(
    steps: Sequence[DryStep], target: int, memory_mib: float, question: Question, hurry: str = ""
) -> list[Decision]:
    limit = _MARGIN * memory_mib
    fitting = [one for one in steps if one.peak_mib <= limit]
    if not fitting:
        one = steps[0]
        raise InputError(
            f"a training step with {one.batch} image(s) of {question.size} pixels takes "
            f"{one.peak_mib:.0f} MiB, {limit:.0f} MiB are to be used",
            fix="give more memory with --memory-gb, or choose a smaller --model",
            code="too_little_memory",
        )
    best = max((one for one in fitting if one.batch <= target), key=lambda one: one.batch)
    told = ", ".join(f"{one.batch}: {one.peak_mib:.0f} MiB {one.seconds:.2f} s" for one in steps)
    found = [
        Decision("/trainer", "gpu" if question.device == "cuda" else "cpu", "where it is to run"),
        Decision(
            "data.batch_size",
            best.batch,
            f"measured training steps ({told}); {limit:.0f} MiB are to be used{hurry}",
        ),
    ]
    if best.batch < target:
        share = -(-target // best.batch)
        reason = f"so that {target} images count in each update, although {best.batch} fit"
        found.append(Decision("trainer.accumulate_grad_batches", share, reason))
    return found


def _length(
    found: Fingerprint,
    decisions: Sequence[Decision],
    steps: Sequence[DryStep],
    request: PlanRequest,
) -> list[Decision]:
    """How long to train: the time that is given, or a number of updates."""
    told: Mapping[str, Any] = {one.key: one.value for one in decisions}
    batch = told["data.batch_size"]
    step = next(one for one in steps if one.batch == batch)
    samples = _training_slices(found, told)
    per_epoch = max(1, round(samples / batch))
    seconds = per_epoch * step.seconds
    logged = Decision("trainer.log_every_n_steps", per_epoch, "an epoch has no more steps")
    often = [logged] if per_epoch < _LOG_EVERY else []
    if request.minutes is None:
        updates = per_epoch / told.get("trainer.accumulate_grad_batches", 1)
        epochs = int(min(_MOST_EPOCHS, max(5, round(_STEPS / updates))))
        reason = f"{epochs * updates:.0f} updates; an epoch has {per_epoch} steps, {seconds:.0f} s"
        return [Decision("trainer.max_epochs", epochs, f"{reason} here"), *often]
    whole, rest = divmod(round(request.minutes * 60), 60)
    return [
        Decision("trainer.max_time", f"00:{whole // 60:02}:{whole % 60:02}:{rest:02}", "as given"),
        Decision("trainer.max_epochs", -1, "the time decides"),
        Decision("optimizer.follow", "time", "the learning rate ends with the time"),
        _validation(found, step.seconds / batch, seconds, request.minutes * 60),
        *often,
    ]


def _validation(
    found: Fingerprint, step_seconds: float, epoch_seconds: float, limit_s: float
) -> Decision:
    """Validate four times or more, as long as that takes no more than its share of the time."""
    epochs = limit_s / epoch_seconds
    slices = found.slices / found.looked_at * _validation_cases(found)
    cost_s = _FORWARD * slices * step_seconds
    told = f"an epoch takes {epoch_seconds:.0f} s here and validation {cost_s:.0f} s"
    if epochs < _VALIDATIONS:
        times = max(1, min(_VALIDATIONS, int(_VALIDATED * limit_s / cost_s)))
        # the first one must not wait for the end, which time alone decides
        share = min(1.0, max(0.05, round(0.9 * epochs / times, 2)))
        return Decision("trainer.val_check_interval", share, f"{told}; {times} fit in the time")
    every = max(1, min(round(cost_s / epoch_seconds / 0.15), int(epochs / _VALIDATIONS)))
    return Decision("trainer.check_val_every_n_epoch", every, f"{told}; that costs time too")


def _training_slices(found: Fingerprint, told: Mapping[str, Any]) -> float:
    """Slices of an epoch: those of the training cases that the rule for empty ones keeps."""
    kept = {"keep": 1.0, "drop": 0.0}.get(told.get("data.empty", "keep"), told.get("data.empty"))
    share = 1 - found.empty_slices * (1 - float(kept))  # type: ignore[arg-type]
    cases = found.cases.get("train", 0) - _validation_cases(found)
    return share * cases * found.slices / found.looked_at


def _validation_cases(found: Fingerprint) -> float:
    return float(found.cases.get("val") or 0.2 * found.cases.get("train", 0))
