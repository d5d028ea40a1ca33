"""The flags of `segkit convert`."""

import argparse
from pathlib import Path

EXAMPLE = """examples:
  segkit convert --from sam sam_vit_b_01ec64.pth -o sam_vit_b.safetensors
  segkit convert --from sam-adapter model_epoch_best.pth -o adapter.safetensors
  segkit convert --to int8 runs/liver -o liver.int8.onnx

A method on a frozen SAM becomes two files: the adapter, and beside it NAME.backbone.safetensors,
which is passed as --checkpoint wherever the adapter is used.

--to takes a run folder, an adapter file or a model name and exports its encoder with the adapter
merged in, for `segkit predict --encoder FILE` on a CPU (needs segkit[int8]). Its masks are compared
with those of the float encoder first; the file is written if they agree."""
FAMILIES = (
    "3dsam-adapter", "dd-sam2", "dvpt", "i-medsam", "medsam", "medsam2", "sam", "sam-adapter",
    "sam2", "stu-net",
)  # fmt: skip
PRECISIONS = ("int8", "float32")


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "convert",
        help="turn official and authors' checkpoints into segkit files, encoders into ONNX",
        description="Converts strictly: every missing, unexpected and mis-shaped key is reported, "
        "and nothing in the file is executed.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument(
        "--from", dest="family", metavar="FAMILY", help=f"one of {', '.join(FAMILIES)}"
    )
    way.add_argument(
        "--to", dest="precision", choices=PRECISIONS, help="export the encoder of a model"
    )
    parser.add_argument("source", type=Path, metavar="IN", help="checkpoint; with --to a model")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="OUT")
    parser.add_argument("--backbone", metavar="NAME", help="size of SAM; found without it")
    parser.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="SAM file the method was trained on"
    )
    export = parser.add_argument_group("comparing masks (--to)")
    export.add_argument(
        "--data",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="images or volumes, or a folder of them; generated pictures without it",
    )
    export.add_argument("--pictures", type=int, default=8, metavar="N", help="how many (8)")
    export.add_argument(
        "--min-iou",
        type=float,
        default=0.98,
        metavar="IOU",
        help="mean IoU with the masks of the float encoder that is required (0.98)",
    )
    parser.add_argument("--json", action="store_true", help="print the record as JSON")
