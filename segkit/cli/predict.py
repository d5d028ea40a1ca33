"""`segkit predict`: masks for files, on their own grid."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segkit.cli import predict_many, predict_video
from segkit.cli.predict_prompts import CommandPrompts, add_prompt_arguments
from segkit.data.atomic import atomic_file
from segkit.data.meshes import is_mesh, save_surface
from segkit.data.options import add_read_arguments, read_options_from
from segkit.data.volume import Picture, Volume
from segkit.data.writers import save
from segkit.errors import InputError
from segkit.predictors.base import Predictor
from segkit.predictors.cohort import (
    CaseResult,
    CohortReport,
    find_inputs,
    output_path,
    run_case,
)

FORMATS = (".nii.gz", ".nii", ".nrrd", ".mha", ".seg.nrrd", ".png", ".tif", ".dcm")
EXAMPLE = """examples:
  segkit predict ct.nii.gz -m runs/liver -o liver.nii.gz
  segkit predict cases/ -m runs/liver -o masks/ --resume
  segkit predict ct.nii.gz -m runs/liver -o liver.stl --label liver
  segkit predict polyp.png -m nano -o mask.png --box 80,60,210,180
  segkit predict t1.nrrd -m nano -o mask.nrrd --point=-12.5,30,41.2 --space ras
  segkit predict ct.nii.gz -m nano -o kidney.nii.gz --box 90,80,40,150,160,41 --propagate
  segkit predict ct.nii.gz -m nano -o both.nii.gz --point 80,90,40@left --point 180,92,40@right

Voxel coordinates are i,j,k, the order of the file's axes (x,y for pictures), from 0. Boxes are
half-open: first corner, then one past the last voxel. Millimetres are x,y,z. Prompts without a
name belong to the object of --label; the output holds 1, 2, ... in the order of the objects."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "predict",
        help="segment files; the mask has the input's own grid",
        epilog=f"{EXAMPLE}\n\n{predict_video.EXAMPLE}",
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
    parser.add_argument("--resume", action="store_true", help="skip inputs that are done")
    parser.add_argument("--json", action="store_true", help="print the run report as JSON")
    add_prompt_arguments(parser)
    classes = parser.add_argument_group("classes (automatic models)")
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
    parser.add_argument("--text", help=argparse.SUPPRESS)
    reading = parser.add_argument_group("reading (each makes one refusal proceed)")
    add_read_arguments(reading)


def run(args: argparse.Namespace) -> int:
    """Predict every input; exit code 1 if one failed."""
    if args.text is not None:
        raise InputError(
            "text prompts are not part of this version", fix="use --point, --box or --mask"
        )
    args.model = args.models[0]
    if len(args.models) > 1:
        return predict_many.run(args)
    if predict_video.is_sequence(args):
        return predict_video.run(args)
    inputs = find_inputs(args.inputs)
    is_single = len(inputs) == 1
    if args.uncertainty is not None and not is_single:
        raise InputError(f"--uncertainty writes one file, got {len(inputs)} inputs")
    outputs = [output_path(one, args.output, args.format, is_single=is_single) for one in inputs]
    _check_outputs(inputs, outputs)
    predictor = Predictor.from_pretrained(
        args.model, checkpoint=args.checkpoint, device=args.device
    )
    work = _Work(args)
    options = read_options_from(args)
    cases: list[CaseResult] = []
    for source, output in zip(inputs, outputs, strict=True):
        if args.resume and output.exists():
            cases.append(CaseResult(str(source), str(output), "skipped"))
            continue
        cases.append(run_case(predictor, source, output, work, options))
        _tell(cases[-1])
    report = CohortReport(args.model, predictor.sha256, str(predictor.device), tuple(cases))
    folder = args.output if not is_single or not args.output.suffix else args.output.parent
    text = json.dumps(report.to_dict(), indent=2)
    if not is_single or args.output.is_dir():
        with atomic_file(folder / "run_report.json") as file:
            file.write(text.encode())
    if args.json:
        sys.stdout.write(text + "\n")
    return 1 if report.failures else 0


class _Work:
    """What is done with one opened input."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.prompts = CommandPrompts(args)
        self.label: str | None = args.label
        self.mirror, self.overlap = args.mirror, args.overlap
        self.uncertainty: Path | None = args.uncertainty

    def __call__(self, predictor: Predictor, source: Volume | Picture, output: Path) -> Path:
        if predictor.segmenter.is_automatic and not self.prompts:
            return self._classes(predictor, source, output)
        session = predictor.open(source, axis=self.prompts.axis)
        session.name = self.label or session.name
        self.prompts.apply(session)
        if self.uncertainty is not None:
            percent = np.rint(100 * session.ensemble().entropy).astype(np.uint8)
            save(self.uncertainty, percent, source)
        if is_mesh(output):
            return save_surface(output, session.logits(), source)
        return session.save(output)

    def _classes(self, predictor: Predictor, source: Volume | Picture, output: Path) -> Path:
        if self.uncertainty is not None:
            raise InputError(
                "--uncertainty needs a prompted object; this model segments classes by itself",
                fix="leave it out, or use an interactive model with --box or --point",
            )
        labels = predictor.segment(source, mirror=self.mirror, overlap=self.overlap)
        if self.label is not None:
            names = {name: value for value, name in predictor.labels.items()}
            if self.label not in names:
                raise InputError(f"unknown label {self.label!r}; allowed: {sorted(names)}")
            labels = np.where(labels == names[self.label], labels, 0)
        if is_mesh(output):
            return save_surface(output, np.where(labels > 0, 1.0, -1.0), source)
        return predictor.save(output, labels, source)


def _check_outputs(inputs: Sequence[Path], outputs: Sequence[Path]) -> None:
    if clash := sorted({str(one) for one in outputs if outputs.count(one) > 1}):
        raise InputError(f"several inputs would be written to {clash[0]}", fix="rename them")
    for source, output in zip(inputs, outputs, strict=True):
        if output.exists() and output.resolve() == source.resolve():
            raise InputError("the output would overwrite the input", path=source)
    for folder in {output.parent for output in outputs}:
        folder.mkdir(parents=True, exist_ok=True)


def _tell(case: CaseResult) -> None:
    for note in case.notes:
        sys.stderr.write(f"warning: {note}\n")
    if case.error is not None:
        sys.stderr.write(f"error: {case.error}\n")
    else:
        sys.stderr.write(f"{case.output} ({case.seconds:.1f} s)\n")
