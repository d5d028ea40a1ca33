"""`segkit plan`: look at a data set and write the experiment that suits it."""

import argparse
import json
import sys
from typing import Any

from rich.console import Console
from rich.progress import Progress

from segkit.data.datamodule import SourceSpec
from segkit.planning.experiment import check_target
from segkit.planning.planner import Plan, plan
from segkit.planning.request import PlanRequest


def run(args: argparse.Namespace) -> int:
    """Plan and write the experiment."""
    check_target(args.output)  # before the data set is looked at, which takes its time
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
