"""The flags of `segkit plan`."""

import argparse
from pathlib import Path
from typing import get_args

from segkit.planning.choices import MODELS, PromptMode

EXAMPLE = """examples:
  segkit plan Task04_Hippocampus -o hippocampus.yaml
  segkit plan polyps -o polyps.yaml --labels polyp --memory-gb 4 --minutes 30
  segkit plan Task04_Hippocampus -o unet.yaml --model unet_2d
then
  segkit train experiment=hippocampus.yaml data.root=Task04_Hippocampus
  segkit eval run=runs/hippocampus/TIME data.root=Task04_Hippocampus"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "plan",
        help="from a folder of data to an experiment",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", metavar="DATASET", help="folder of the data set")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FILE.yaml")
    parser.add_argument("--memory-gb", type=float, metavar="G", help="what training may use")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--minutes", type=float, metavar="M", help="wall time of the training")
    parser.add_argument("--model", default="nano", choices=MODELS, help="what is trained")
    parser.add_argument("--prompt", choices=get_args(PromptMode), help="instead of the planned one")
    parser.add_argument("--cases", type=int, default=100, metavar="N", help="cases to measure")
    parser.add_argument("--layout", default="auto", help="arrangement of the data set")
    parser.add_argument("--group-by", metavar="RULE", help='what names a subject, or "pairs"')
    parser.add_argument("--label-folder", metavar="NAME", help="where several hold labels")
    parser.add_argument("--labels", nargs="+", metavar="NAME", help="names of the values 1, 2, ...")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
