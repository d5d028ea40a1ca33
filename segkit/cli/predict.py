"""`segkit predict`: masks for files, on their own grid."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segkit.cli import predict_many, predict_text, predict_video
from segkit.cli.predict_cohort import Cohort, device_of, run_jobs
from segkit.cli.predict_prompts import CommandPrompts
from segkit.data.meshes import is_mesh, save_surface
from segkit.data.options import read_options_from
from segkit.data.volume import Picture, Volume
from segkit.data.writers import save
from segkit.errors import InputError
from segkit.predictors.base import Predictor, encoder_report
from segkit.predictors.cohort import CohortReport, check_folder, find_inputs, output_path
from segkit.predictors.ensemble import Ensemble
from segkit.predictors.pipeline import Job, Steps, Write


def run(args: argparse.Namespace) -> int:
    """Predict every input; exit code 1 if one failed."""
    args.model = args.models[0]
    predict_text.check(args)
    if args.encoder is not None and len(args.models) > 1:
        raise InputError(
            f"--encoder belongs to one model, got {len(args.models)}", fix="run them one by one"
        )
    if len(args.models) > 1 and not args.ensemble:
        return predict_many.run(args)
    if predict_video.is_sequence(args):
        return predict_video.run(args)
    inputs = find_inputs(args.inputs)
    is_single = len(inputs) == 1
    if args.uncertainty is not None and not is_single:
        raise InputError(f"--uncertainty writes one file, got {len(inputs)} inputs")
    if not is_single:
        check_folder(args.output, f"the masks of {len(inputs)} inputs go")
    outputs = [output_path(one, args.output, args.format, is_single=is_single) for one in inputs]
    _check_outputs(inputs, outputs)
    answer = _answer(args)
    options = read_options_from(args)
    steps = Steps(lambda path: answer.predictor.read(path, options), answer)
    jobs = [Job(one, (output,)) for one, output in zip(inputs, outputs, strict=True)]
    folder = args.output if not is_single or args.output.is_dir() else None
    about = CohortReport(
        ", ".join(args.models),
        answer.predictor.sha256,
        str(answer.predictor.device),
        (),
        settings=answer.settings,
    )
    report = run_jobs(args, Cohort(jobs, folder), steps, about)
    return 1 if report.failures else 0


def _answer(args: argparse.Namespace) -> "_Work | _Together":
    device = device_of(args)
    if args.ensemble:
        return _Together(
            args, Ensemble.from_pretrained(args.models, checkpoint=args.checkpoint, device=device)
        )
    predictor = Predictor.from_pretrained(
        args.model, checkpoint=args.checkpoint, device=device, encoder=args.encoder
    )
    return _Work(args, predictor)


class _Work:
    """What is done with one opened input."""

    def __init__(self, args: argparse.Namespace, predictor: Predictor) -> None:
        self.predictor = predictor
        self.prompts = CommandPrompts(args)
        self.words = predict_text.CommandWords(args)
        self.label: str | None = args.label
        self.mirror, self.overlap = args.mirror, args.overlap
        self.uncertainty: Path | None = args.uncertainty
        self.settings = {**self.words.report(), **encoder_report(predictor.segmenter)}
        if self.prompts.zoom is not None:
            self.settings["zoom"] = self.prompts.zoom

    def __call__(self, source: Volume | Picture, job: Job) -> Write:
        (output,) = job.outputs
        if self.predictor.segmenter.is_automatic and not (self.prompts or self.words):
            return self._classes(source, output)
        session = self.predictor.open(source, axis=self.prompts.axis, zoom=self.prompts.zoom)
        session.name = self.label or session.name
        if self.words and not self.words.apply(session) and not self.prompts:
            return lambda: [predict_text.save_nothing(output, source, self.words)]
        self.prompts.apply(session)
        if self.uncertainty is not None:
            percent = np.rint(100 * session.ensemble().entropy).astype(np.uint8)
            save(self.uncertainty, percent, source)
        if is_mesh(output):
            logits = session.logits()
            return lambda: [save_surface(output, logits, source)]
        session.labels()  # the masks of all prompts, before the writer asks for them
        return lambda: [session.save(output)]

    def _classes(self, source: Volume | Picture, output: Path) -> Write:
        if self.uncertainty is not None:
            raise InputError(
                "--uncertainty needs a prompted object; this model segments classes by itself",
                fix="leave it out, or use an interactive model with --box or --point",
            )
        labels = self.predictor.segment(source, mirror=self.mirror, overlap=self.overlap)
        return _written(self.predictor, labels, source, output, self.label)


class _Together:
    """The mean of several models on one opened input."""

    def __init__(self, args: argparse.Namespace, ensemble: Ensemble) -> None:
        if CommandPrompts(args) or args.uncertainty is not None:
            raise InputError("an ensemble segments its classes by itself", fix="leave prompts out")
        self.predictor = ensemble
        self.label, self.mirror, self.overlap = args.label, args.mirror, args.overlap
        self.settings: dict[str, object] = {}

    def __call__(self, source: Volume | Picture, job: Job) -> Write:
        labels = self.predictor.segment(source, mirror=self.mirror, overlap=self.overlap)
        return _written(self.predictor, labels, source, job.outputs[0], self.label)


def _written(
    predictor: Predictor | Ensemble,
    labels: np.ndarray,
    source: Volume | Picture,
    output: Path,
    label: str | None,
) -> Write:
    """How a label map, or one class of it, is written."""
    if label is not None:
        names = {name: value for value, name in predictor.labels.items()}
        if label not in names:
            raise InputError(f"unknown label {label!r}; allowed: {sorted(names)}")
        labels = np.where(labels == names[label], labels, 0)
    if is_mesh(output):
        inside = np.where(labels > 0, 1.0, -1.0)
        return lambda: [save_surface(output, inside, source)]
    return lambda: [predictor.save(output, labels, source)]


def _check_outputs(inputs: Sequence[Path], outputs: Sequence[Path]) -> None:
    if clash := sorted({str(one) for one in outputs if outputs.count(one) > 1}):
        raise InputError(f"several inputs would be written to {clash[0]}", fix="rename them")
    for source, output in zip(inputs, outputs, strict=True):
        if output.exists() and output.resolve() == source.resolve():
            raise InputError("the output would overwrite the input", path=source)
    for folder in {output.parent for output in outputs}:
        folder.mkdir(parents=True, exist_ok=True)
