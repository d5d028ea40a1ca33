"""`segkit convert`: official and authors' checkpoints to segkit files."""

import argparse
import sys

from segkit.models.conversion import Conversion, convert


def run(args: argparse.Namespace) -> int:
    """Convert one file."""
    record = convert(
        args.family,
        args.source,
        args.output,
        backbone=args.backbone,
        checkpoint=args.checkpoint,
    )
    sys.stdout.write((record.to_json() if args.json else _text(record)) + "\n")
    return 0


def _text(record: Conversion) -> str:
    lines = [f"{record.source}: {record.tensors} tensors of {record.family} on {record.backbone}"]
    lines += [f"{kind:9} {path}" for kind, path in record.outputs.items()]
    if record.filled:
        what = sorted(set(record.filled.values()))
        lines.append(f"filled    {len(record.filled)} tensors it lacks: {'; '.join(what)}")
    return "\n".join(lines + [f"note      {note}" for note in record.notes])
