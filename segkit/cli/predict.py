"""`segkit predict`: masks for files, on their own grid."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segkit.data.atomic import atomic_file
from segkit.data.labels import read_labels
from segkit.data.options import add_read_arguments, read_options_from
from segkit.data.volume import Picture, Volume
from segkit.errors import InputError
from segkit.geometry import Space
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
  segkit predict polyp.png -m nano -o mask.png --box 80,60,210,180
  segkit predict t1.nrrd -m nano -o mask.nrrd --point=-12.5,30,41.2 --space ras

Voxel coordinates are i,j,k, the order of the file's axes (x,y for pictures), from 0. Boxes are
half-open: first corner, then one past the last voxel. Millimetres are x,y,z."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "predict",
        help="segment files; the mask has the input's own grid",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="file, DICOM folder or folder")
    parser.add_argument("-m", "--model", required=True, help="run folder, adapter file or name")
    parser.add_argument("-o", "--output", required=True, type=Path, help="file or folder")
    parser.add_argument("--checkpoint", help="weight file of a backbone that does not ship here")
    parser.add_argument("--format", choices=FORMATS, help="file type in an output folder")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument("--resume", action="store_true", help="skip inputs that are done")
    parser.add_argument("--json", action="store_true", help="print the run report as JSON")
    prompts = parser.add_argument_group("prompts (interactive models)")
    prompts.add_argument(
        "--point", action="append", default=[], metavar="I,J,K[:0|1]", help="click; :0 removes"
    )
    prompts.add_argument(
        "--box", action="append", default=[], metavar="I0,J0,K0,I1,J1,K1", help="half-open box"
    )
    prompts.add_argument("--mask", type=Path, metavar="FILE", help="mask to start from")
    prompts.add_argument("--space", choices=("voxel", "ras", "lps"), default="voxel")
    prompts.add_argument("--label", metavar="NAME", help="name of the object, or class to keep")
    prompts.add_argument("--text", help=argparse.SUPPRESS)
    reading = parser.add_argument_group("reading (each makes one refusal proceed)")
    add_read_arguments(reading)


def run(args: argparse.Namespace) -> int:
    """Predict every input; exit code 1 if one failed."""
    if args.text is not None:
        raise InputError(
            "text prompts are not part of this version", fix="use --point, --box or --mask"
        )
    inputs = find_inputs(args.inputs)
    is_single = len(inputs) == 1
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
        self.space: Space = args.space
        self.points = [parse_point(text) for text in args.point]
        self.boxes = [parse_box(text) for text in args.box]
        self.mask, self.label = args.mask, args.label

    @property
    def has_prompts(self) -> bool:
        return bool(self.points or self.boxes or self.mask)

    def __call__(self, predictor: Predictor, source: Volume | Picture, output: Path) -> Path:
        if predictor.segmenter.is_automatic and not self.has_prompts:
            return self._classes(predictor, source, output)
        session = predictor.open(source)
        session.name = self.label or session.name
        if self.mask is not None:
            session.add_mask(read_labels(self.mask, source) > 0)
        for box in self.boxes:
            session.add_box((self._order(box[0]), self._order(box[1])), space=self.space)
        if self.points:
            points, labels = zip(*self.points, strict=True)
            session.add_points([self._order(one) for one in points], labels, space=self.space)
        return session.save(output)

    def _classes(self, predictor: Predictor, source: Volume | Picture, output: Path) -> Path:
        labels = predictor.segment(source)
        if self.label is not None:
            names = {name: value for value, name in predictor.labels.items()}
            if self.label not in names:
                raise InputError(f"unknown label {self.label!r}; allowed: {sorted(names)}")
            labels = np.where(labels == names[self.label], labels, 0)
        return predictor.save(output, labels, source)

    def _order(self, point: Sequence[float]) -> Sequence[float]:
        """File order (i, j, k) to array order (k, j, i); millimetres stay (x, y, z)."""
        return point[::-1] if self.space == "voxel" else point


def parse_point(text: str) -> tuple[tuple[float, ...], int]:
    """Read "i,j,k", "i,j,k:1" or "i,j,k:0"."""
    position, _, label = text.partition(":")
    if label not in ("", "0", "1"):
        raise InputError(f"--point {text}: the label after ':' must be 0 or 1")
    return _numbers("--point", position, (2, 3)), int(label or 1)


def parse_box(text: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Read "i0,j0,k0,i1,j1,k1", or "x0,y0,x1,y1" for pictures."""
    numbers = _numbers("--box", text, (4, 6))
    half = len(numbers) // 2
    return numbers[:half], numbers[half:]


def _numbers(option: str, text: str, counts: tuple[int, int]) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in counts:
        raise InputError(
            f"{option} {text}: expected {counts[1]} numbers (volumes) or {counts[0]} (pictures)",
            fix="separate them by commas; write --option=-1,2,3 if the first is negative",
        )
    return numbers


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
