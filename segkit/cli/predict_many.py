"""`segkit predict -m A -m B`: several automatic models on one backbone, in one pass."""

import argparse
from pathlib import Path

from segkit.cli.predict_cohort import Cohort, device_of, run_jobs
from segkit.cli.predict_prompts import CommandPrompts
from segkit.data.options import read_options_from
from segkit.data.volume import Picture, Volume
from segkit.errors import InputError
from segkit.predictors.cohort import CohortReport, check_folder, find_inputs, output_path
from segkit.predictors.pipeline import Job, Steps, Write
from segkit.predictors.shelf import Shelf


def run(args: argparse.Namespace) -> int:
    """Write OUTPUT/<model>/<case>; exit code 1 if an input failed."""
    check_folder(args.output, "the masks of several models go")
    _check(args)
    shelf = Shelf.from_pretrained(args.models, checkpoint=args.checkpoint, device=device_of(args))
    if bare := [n for n, one in shelf.predictors.items() if not one.segmenter.is_automatic]:
        raise InputError(
            f"{bare[0]!r} needs prompts; several models run without any", fix="leave it out"
        )
    first = next(iter(shelf.predictors.values()))
    options = read_options_from(args)

    def predict(source: Volume | Picture, job: Job) -> Write:
        found = shelf.segment(source)
        names = zip(shelf.predictors, job.outputs, strict=True)
        return lambda: [shelf.use(name).save(path, found[name], source) for name, path in names]

    about = CohortReport(", ".join(shelf.predictors), first.sha256, str(first.device), ())
    jobs = [_job(shelf, source, args) for source in find_inputs(args.inputs)]
    for folder in {path.parent for job in jobs for path in job.outputs}:
        folder.mkdir(parents=True, exist_ok=True)
    steps = Steps(lambda path: first.read(path, options), predict)
    report = run_jobs(args, Cohort(jobs, args.output), steps, about)
    return 1 if report.failures else 0


def _check(args: argparse.Namespace) -> None:
    """Refuse what several models cannot do together, rather than leave it undone."""
    if CommandPrompts(args):
        raise InputError(
            "several models segment their classes by themselves, without prompts",
            fix="leave prompts out, or run the models one by one",
        )
    asked = {
        "--label": args.label is not None,
        "--uncertainty": args.uncertainty is not None,
        "--mirror": args.mirror,
    }
    if found := [name for name, is_given in asked.items() if is_given]:
        raise InputError(f"{found[0]} is for one model", fix="run the models one by one")


def _job(shelf: Shelf, source: Path, args: argparse.Namespace) -> Job:
    outputs = (
        output_path(source, args.output / name, args.format, is_single=False)
        for name in shelf.predictors
    )
    return Job(source, tuple(outputs))
