"""What `segkit predict` does with many inputs: one model, overlapped stages, parts, resuming."""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from segkit.backbones.checkpoints import file_sha256
from segkit.errors import InputError
from segkit.models.zoo import ADAPTER_FILE
from segkit.predictors.cohort import CaseResult, CohortReport
from segkit.predictors.journal import Journal
from segkit.predictors.pipeline import Job, Pipeline, Steps
from segkit.predictors.shards import Shard

# what may differ between a run and the one that goes on with it
_FREE = ("inputs", "output", "device", "resume", "json", "shard", "models", "model", "command")


@dataclass(frozen=True, slots=True)
class Cohort:
    """All jobs of a run. `folder` takes the report; None for one file, which needs none."""

    jobs: Sequence[Job]
    folder: Path | None


def run_jobs(
    args: argparse.Namespace, cohort: Cohort, steps: Steps, about: CohortReport
) -> CohortReport:
    """Do the jobs of this process; `about` tells model and device. Writes the report.

    Raises:
        InputError: Two ways of sharing out the inputs contradict each other.
    """
    shard = shard_of(args)
    mine = shard.of(cohort.jobs)
    journal: Journal | None = None
    if cohort.folder is not None:
        journal = Journal(cohort.folder, settings_key(args), resume=args.resume, shard=shard)
    cases: list[CaseResult] = []
    todo: list[Job] = []
    for job in mine:
        found = _finished(job, journal) if args.resume else None
        cases += found or ()
        if found is None:
            todo.append(job)
    try:
        for done in Pipeline(steps).run(todo):
            cases += done
            if journal is not None:
                journal.add(done)
            tell(done)
    finally:  # also of a run that is interrupted
        report = CohortReport(
            about.model,
            about.backbone_sha256,
            about.device,
            tuple(cases),
            len(cohort.jobs),
            about.settings,
        )
        whole = report if journal is None else journal.report(report)
    if args.json:
        sys.stdout.write(json.dumps(whole.to_dict(), indent=2) + "\n")
    return report


def shard_of(args: argparse.Namespace) -> Shard:
    """Part of the inputs that this process takes."""
    launched = Shard.under_torchrun(os.environ)
    if launched is not None and args.shard is not None:
        raise InputError(
            "torchrun shares out the inputs by itself", fix="leave --shard out, or torchrun"
        )
    return launched or args.shard or Shard()


def device_of(args: argparse.Namespace) -> str:
    """The device that was asked for; of processes under torchrun each takes a GPU of its own."""
    is_launched = Shard.under_torchrun(os.environ) is not None
    if args.device == "auto" and is_launched and torch.cuda.is_available():
        return f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
    return str(args.device)


def settings_key(args: argparse.Namespace) -> str:
    """Hash of the models and of everything that decides how a mask comes out."""
    settings = {name: str(value) for name, value in vars(args).items() if name not in _FREE}
    told = [[_identity(Path(model)) for model in args.models], sorted(settings.items())]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def tell(cases: Sequence[CaseResult]) -> None:
    """Say on the standard error what became of a job."""
    for note in cases[0].notes:
        sys.stderr.write(f"warning: {note}\n")
    for case in cases:
        if case.error is not None:
            where = "" if case.input in case.error else f"{case.input}: "
            sys.stderr.write(f"error: {where}{case.error}\n")
        else:
            sys.stderr.write(f"{case.output} ({case.seconds:.1f} s)\n")


def _finished(job: Job, journal: Journal | None) -> tuple[CaseResult, ...] | None:
    if journal is not None:
        return journal.finished(job)
    if not all(path.exists() for path in job.outputs):
        return None
    return tuple(CaseResult(str(job.source), str(path), "skipped") for path in job.outputs)


def _identity(model: Path) -> str:
    """Hash of an adapter file, or the name of a model that is known by name."""
    path = model / ADAPTER_FILE if model.is_dir() else model
    return file_sha256(path) if path.is_file() else str(model)
