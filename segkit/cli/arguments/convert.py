"""The flags of `segkit convert`."""

import argparse
from pathlib import Path

EXAMPLE = """examples:
  segkit convert --from sam sam_vit_b_01ec64.pth -o sam_vit_b.safetensors
  segkit convert --from sam-adapter model_epoch_best.pth -o adapter.safetensors

A method on a frozen SAM becomes two files: the adapter, and beside it NAME.backbone.safetensors,
which is passed as --checkpoint wherever the adapter is used."""
FAMILIES = (
    "3dsam-adapter", "dd-sam2", "dvpt", "i-medsam", "medsam", "medsam2", "sam", "sam-adapter",
    "sam2", "stu-net",
)  # fmt: skip


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "convert",
        help="turn official and authors' checkpoints into segkit files",
        description="Converts strictly: every missing, unexpected and mis-shaped key is reported, "
        "and nothing in the file is executed.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--from",
        dest="family",
        required=True,
        metavar="FAMILY",
        help=f"one of {', '.join(FAMILIES)}",
    )
    parser.add_argument("source", type=Path, metavar="IN", help="checkpoint")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="OUT")
    parser.add_argument("--backbone", metavar="NAME", help="size of SAM; found without it")
    parser.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="SAM file the method was trained on"
    )
    parser.add_argument("--json", action="store_true", help="print the record as JSON")
