"""`segkit plan`: look at a data set and write the experiment that suits it."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.progress import Progress

from segkit.data.datamodule import SourceSpec
from segkit.errors import InputError
from segkit.planning.planner import Plan, plan
from segkit.planning.request import MODELS, PlanRequest, PromptMode

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


def run(args: argparse.Namespace) -> int:
    """Plan and write the experiment."""
    if args.output.suffix != ".yaml":
        raise InputError("a plan is written to a .yaml file", path=args.output)
    found = _planned(args)
    found.write(args.output)
    if args.json:
        sys.stdout.write(json.dumps(found.to_dict(), indent=2) + "\n")
        return 0
    for one in found.decisions:
        sys.stdout.write(f"{one.key.removeprefix('/')}: {one.value}  ({one.reason})\n")
    for case, cause in found.fingerprint.damaged.items():
        sys.stderr.write(f"warning: {case} cannot be read: {cause}\n")
    for finding in found.fingerprint.findings:
        sys.stderr.write(f"warning: {finding}\n")
    sys.stdout.write(f"{args.output}\n")
    return 0


def _planned(args: argparse.Namespace) -> Plan:
    labels = None if args.labels is None else dict(enumerate(args.labels, start=1))
    request = PlanRequest(
        model=args.model,
        prompt=args.prompt,
        memory_gb=args.memory_gb,
        device=args.device,
        minutes=args.minutes,
        cases=args.cases,
        source=SourceSpec(args.layout, args.group_by, args.label_folder, labels),
    )
    if not sys.stderr.isatty():
        return plan(args.dataset, request)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task: Any = bar.add_task("looking at cases")
        return plan(
            args.dataset,
            request,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
