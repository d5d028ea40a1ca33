"""The flags of `segkit demo`."""

import argparse
from pathlib import Path


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "demo",
        help="fine-tune, evaluate and predict on generated volumes",
        description="Fine-tunes an adapter on the frozen `nano` backbone, evaluates it beside the "
        "same backbone without adaptation, predicts one case and draws a report. Without --data "
        "it generates volumes of an organ with two parts; no real image is involved.",
        epilog="example: segkit demo --out demo --data Task04_Hippocampus",
    )
    parser.add_argument("--out", type=Path, default=Path("demo"), help="run folder to write")
    parser.add_argument("--data", type=Path, help="MSD-style folder instead of generated volumes")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="passed on to `segkit train`"
    )
