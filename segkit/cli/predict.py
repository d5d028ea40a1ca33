"""`segkit predict`: masks for files, on their own grid."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segkit.cli import predict_many, predict_text, predict_video
from segkit.cli.predict_cohort import Cohort, add_cohort_arguments, device_of, run_jobs
from segkit.cli.predict_prompts import CommandPrompts, add_prompt_arguments
from segkit.data.meshes import is_mesh, save_surface
from segkit.data.options import add_read_arguments, read_options_from
from segkit.data.volume import Picture, Volume
from segkit.data.writers import save
from segkit.errors import InputError
from segkit.predictors.base import Predictor
from segkit.predictors.cohort import CohortReport, find_inputs, output_path
from segkit.predictors.ensemble import Ensemble
from segkit.predictors.pipeline import Job, Steps, Write

FORMATS = (".nii.gz", ".nii", ".nrrd", ".mha", ".seg.nrrd", ".png", ".tif", ".dcm")
EXAMPLE = """examples:
  segkit predict ct.nii.gz -m runs/liver -o liver.nii.gz
  segkit predict cases/ -m runs/liver -o masks/ --resume
  segkit predict ct.nii.gz -m runs/liver -o liver.stl --label liver
  segkit predict cases/ -m cv/0 -m cv/1 -m cv/2 --ensemble -o masks/
  torchrun --nproc-per-node 4 --no-python segkit predict cases/ -m runs/liver -o masks/
  segkit predict polyp.png -m nano -o mask.png --box 80,60,210,180
  segkit predict t1.nrrd -m nano -o mask.nrrd --point=-12.5,30,41.2 --space ras
  segkit predict ct.nii.gz -m nano -o kidney.nii.gz --box 90,80,40,150,160,41 --propagate
  segkit predict ct.nii.gz -m nano -o both.nii.gz --point 80,90,40@left --point 180,92,40@right

Voxel coordinates are i,j,k, the order of the file's axes (x,y for pictures), from 0. Boxes are
half-open: first corner, then one past the last voxel. Millimetres are x,y,z. Prompts without a
name belong to the object of --label; the output holds 1, 2, ... in the order of the objects.

The exit code is 0 if every input gave its mask, 1 if one failed (the others are done nevertheless;
run_report.json beside the masks says why), 2 if the command was wrong."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "predict",
        help="segment files; the mask has the input's own grid",
        epilog=f"{EXAMPLE}\n\n{predict_text.EXAMPLE}\n\n{predict_video.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="file, DICOM folder or folder")
    parser.add_argument(
        *("-m", "--model"),
        dest="models",
        action="append",
        required=True,
        metavar="MODEL",
        help="run folder, adapter file or name; several share one backbone",
    )
    parser.add_argument("-o", "--output", required=True, type=Path, help="file or folder")
    parser.add_argument("--checkpoint", help="weight file of a backbone that does not ship here")
    parser.add_argument("--format", choices=FORMATS, help="file type in an output folder")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument("--json", action="store_true", help="print the run report as JSON")
    add_cohort_arguments(parser)
    add_prompt_arguments(parser)
    predict_text.add_text_arguments(parser)
    classes = parser.add_argument_group("classes (automatic models)")
    classes.add_argument(
        "--ensemble", action="store_true", help="one mask: the mean of all models named with -m"
    )
    classes.add_argument("--mirror", action="store_true", help="average over mirrored inputs")
    classes.add_argument(
        "--overlap", type=float, default=0.5, help="of blocks, as a share of their side (0.5)"
    )
    parser.add_argument("--label", metavar="NAME", help="name of the object, or class to keep")
    parser.add_argument(
        "--uncertainty",
        type=Path,
        metavar="FILE",
        help="also write the entropy of a prompted object, in percent of a bit (one input)",
    )
    reading = parser.add_argument_group("reading (each makes one refusal proceed)")
    add_read_arguments(reading)


def run(args: argparse.Namespace) -> int:
    """Predict every input; exit code 1 if one failed."""
    args.model = args.models[0]
    predict_text.check(args)
    if len(args.models) > 1 and not args.ensemble:
        return predict_many.run(args)
    if predict_video.is_sequence(args):
        return predict_video.run(args)
    inputs = find_inputs(args.inputs)
    is_single = len(inputs) == 1
    if args.uncertainty is not None and not is_single:
        raise InputError(f"--uncertainty writes one file, got {len(inputs)} inputs")
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
    return _Work(
        args, Predictor.from_pretrained(args.model, checkpoint=args.checkpoint, device=device)
    )


class _Work:
    """What is done with one opened input."""

    def __init__(self, args: argparse.Namespace, predictor: Predictor) -> None:
        self.predictor = predictor
        self.prompts = CommandPrompts(args)
        self.words = predict_text.CommandWords(args)
        self.label: str | None = args.label
        self.mirror, self.overlap = args.mirror, args.overlap
        self.uncertainty: Path | None = args.uncertainty
        self.settings = self.words.report()

    def __call__(self, source: Volume | Picture, job: Job) -> Write:
        (output,) = job.outputs
        if self.predictor.segmenter.is_automatic and not (self.prompts or self.words):
            return self._classes(source, output)
        session = self.predictor.open(source, axis=self.prompts.axis)
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
