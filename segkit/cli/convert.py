"""`segkit convert`: official and authors' checkpoints to segkit files, encoders to ONNX."""

import argparse
import json
import sys

from segkit.models.build import BUILDERS
from segkit.models.conversion import Conversion, convert
from segkit.models.files import load_model
from segkit.predictors.cohort import find_inputs
from segkit.predictors.exported import Gate, describe, export_encoder
from segkit.predictors.watch import Watch


def run(args: argparse.Namespace) -> int:
    """Convert one file, or export the encoder of one model."""
    if args.precision is not None:
        return _export(args)
    record = convert(
        args.family,
        args.source,
        args.output,
        backbone=args.backbone,
        checkpoint=args.checkpoint,
    )
    sys.stdout.write((record.to_json() if args.json else _text(record)) + "\n")
    return 0


def _export(args: argparse.Namespace) -> int:
    segmenter, info = load_model(args.source, checkpoint=args.checkpoint)
    record = export_encoder(
        segmenter,
        None if str(args.source) in BUILDERS else info,
        args.output,
        args.precision,
        gate=Gate(args.min_iou, find_inputs(args.data), args.pictures),
        watch=Watch(_tell),
    )
    text = f"{args.output}: {describe(record)}"
    sys.stdout.write((json.dumps(record.to_dict()) if args.json else text) + "\n")
    return 0


def _tell(done: int, total: int) -> None:
    sys.stderr.write(f"compared {done} of {total} pictures\n")


def _text(record: Conversion) -> str:
    lines = [f"{record.source}: {record.tensors} tensors of {record.family} on {record.backbone}"]
    lines += [f"{kind:9} {path}" for kind, path in record.outputs.items()]
    if record.filled:
        what = sorted(set(record.filled.values()))
        lines.append(f"filled    {len(record.filled)} tensors it lacks: {'; '.join(what)}")
    return "\n".join(lines + [f"note      {note}" for note in record.notes])
