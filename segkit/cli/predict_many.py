"""`segkit predict -m A -m B`: several automatic models on one backbone, in one pass."""

import argparse
import json
import sys
import time
from pathlib import Path

from segkit.backbones.checkpoints import file_sha256
from segkit.data.atomic import atomic_file
from segkit.data.options import read_options_from
from segkit.errors import InputError, SegkitError
from segkit.predictors.cohort import CaseResult, CohortReport, find_inputs, output_path
from segkit.predictors.shelf import Shelf


def run(args: argparse.Namespace) -> int:
    """Write OUTPUT/<model>/<case>; exit code 1 if an input failed."""
    if args.output.suffix:
        raise InputError(
            "several models write into a folder", path=args.output, fix="name a folder with -o"
        )
    shelf = Shelf.from_pretrained(args.models, checkpoint=args.checkpoint, device=args.device)
    if bare := [n for n, one in shelf.predictors.items() if not one.segmenter.is_automatic]:
        raise InputError(
            f"{bare[0]!r} needs prompts; several models run without any", fix="leave it out"
        )
    cases: list[CaseResult] = []
    for source in find_inputs(args.inputs):
        cases += _one(shelf, source, args)
    first = next(iter(shelf.predictors.values()))
    report = CohortReport(
        ", ".join(shelf.predictors), first.sha256, str(first.device), tuple(cases)
    )
    text = json.dumps(report.to_dict(), indent=2)
    with atomic_file(args.output / "run_report.json") as file:
        file.write(text.encode())
    if args.json:
        sys.stdout.write(text + "\n")
    return 1 if report.failures else 0


def _one(shelf: Shelf, source: Path, args: argparse.Namespace) -> list[CaseResult]:
    """Results of one input, one per model; a refusal becomes a result."""
    outputs = {
        name: output_path(source, args.output / name, args.format, is_single=False)
        for name in shelf.predictors
    }
    if args.resume and all(path.exists() for path in outputs.values()):
        return [CaseResult(str(source), str(path), "skipped") for path in outputs.values()]
    start = time.perf_counter()
    try:
        opened = next(iter(shelf.predictors.values())).read(source, read_options_from(args))
        found = shelf.segment(opened)
        for name, path in outputs.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            shelf.use(name).save(path, found[name], opened)
    except SegkitError as error:
        sys.stderr.write(f"error: {error}\n")
        seconds = time.perf_counter() - start
        return [CaseResult(str(source), None, "failed", seconds, error=str(error))]
    seconds = (time.perf_counter() - start) / len(outputs)
    sys.stderr.write(f"{source.name}: {', '.join(outputs)} ({seconds * len(outputs):.1f} s)\n")
    return [
        CaseResult(str(source), str(path), "done", seconds, sha256=file_sha256(path))
        for path in outputs.values()
    ]
