"""Masks from words as a training set for `segkit train experiment=words`.

`python -m tools.text.pseudo cases/ --words words.yaml -m nano -o pseudo/` segments every image of
the folder from the words of one object and keeps the cases that pass the limits.
"""

import argparse
import json
from pathlib import Path

import torch

from segkit.errors import InputError
from segkit.models.text_encoder import load_text_encoder
from segkit.predictors.base import Predictor
from segkit.predictors.cohort import find_inputs
from segkit.predictors.pseudo_labels import Rule, write_pseudo_labels
from segkit.text import TextPrompter, parse_words, read_words


def main() -> None:
    """Parse the command line and write the set."""
    parser = argparse.ArgumentParser(prog="python -m tools.text.pseudo", description=__doc__)
    parser.add_argument("inputs", nargs="+", help="images, or folders of them")
    parser.add_argument("--words", type=Path, help="YAML file with the words of one object")
    parser.add_argument("--text", action="append", default=[], help="[NAME=]WORDS instead")
    parser.add_argument("-m", "--model", default="nano", help="promptable model")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--text-encoder", default="nano_clip")
    parser.add_argument("--confidence", type=float, default=Rule().confidence)
    parser.add_argument("--agreement", type=float, default=Rule().agreement)
    parser.add_argument("--share", type=float, nargs=2, default=Rule().share)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    torch.set_num_threads(1)
    words = read_words(args.words) if args.words else parse_words(args.text)
    if len(words) != 1:
        raise InputError(f"a set has one object, got words for {sorted(words)}")
    ((name, wordings),) = words.items()
    facts = write_pseudo_labels(
        Predictor.from_pretrained(args.model, device=args.device),
        TextPrompter(load_text_encoder(args.text_encoder)),
        find_inputs(args.inputs),
        wordings,
        args.out,
        name=name,
        rule=Rule(args.confidence, args.agreement, tuple(args.share)),
    )
    print(json.dumps({"kept": facts["kept"], "cases": len(facts["cases"])}))


if __name__ == "__main__":
    main()
