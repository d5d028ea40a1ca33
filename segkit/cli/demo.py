"""`segkit demo`: the main job from end to end, offline, in a few minutes."""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segkit.cli.arguments import train
from segkit.data.datasets import find_cases
from segkit.data.phantom import write_phantom_dataset
from segkit.errors import InputError
from segkit.evaluation import evaluate
from segkit.predictors.base import Predictor

CASES, TEST_CASES, SEED = 60, 10, 7


def run(args: argparse.Namespace) -> int:
    """Train, evaluate, predict, report."""
    out, start = args.out, time.perf_counter()
    if (out / "adapter.safetensors").exists():
        if not (out / "demo.json").exists():
            raise InputError("this folder holds another run", path=out, fix="choose another --out")
        shutil.rmtree(out)
    data = args.data or _phantom(out / "data")
    _say(f"[1/3] fine-tuning an adapter on frozen nano with {data}")
    code = train.run(["experiment=demo", f"data.root={data}", f"run={out}", *args.overrides])
    if code:
        return code
    _say("[2/3] evaluating on the test cases: without adaptation and adapted")
    evaluate(out, data, split="test")
    shutil.copy(out / "eval" / "test" / "report.html", out / "report.html")
    shutil.copytree(out / "eval" / "test" / "figures", out / "figures", dirs_exist_ok=True)
    _say("[3/3] predicting one case on its own grid")
    prediction = _predict_one(out, data)
    summary = json.loads((out / "eval" / "test" / "summary.json").read_text())
    seconds = time.perf_counter() - start
    (out / "demo.json").write_text(json.dumps({"seconds": seconds, "data": str(data)}) + "\n")
    _say("\ntest cases, 95 % interval; an oracle box is taken from the reference:")
    for name, row in summary["rows"].items():
        _say(_line(name, row))
    _say(f"\nreport      {out / 'report.html'}\npictures    {out / 'figures'}")
    _say(f"prediction  {prediction}\nfinished in {seconds:.0f} s")
    return 0


def _phantom(folder: Path) -> Path:
    _say(f"[0/3] generating {CASES + TEST_CASES} volumes of an organ with two parts")
    if folder.exists():
        shutil.rmtree(folder)
    write_phantom_dataset(folder, cases=CASES, test_cases=TEST_CASES, seed=SEED, structure="parts")
    return folder


def _predict_one(out: Path, data: Path) -> Path:
    case = find_cases(data).cases["test"][0]
    predictor = Predictor.from_pretrained(out)
    source = predictor.read(case.image[0])
    return predictor.save(out / "prediction.nii.gz", predictor.segment(source), source)


def _line(name: str, row: Mapping[str, Any]) -> str:
    dice = row["mean"]["dice"]
    low, high = dice["ci95"]
    prompt = ", oracle box" if row["is_oracle"] else ""
    return f"{name + prompt:<28} mean Dice {dice['mean']:.3f}  ({low:.3f} to {high:.3f})"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
