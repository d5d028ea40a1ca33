"""Train `nano_clip` from nothing: `python -m tools.text.train --out runs/nano_clip --minutes 14`.

Pictures and captions are drawn as they are needed. The budget is processor time of one thread; the
learning rate follows a cosine over it, so every budget ends in a finished model. Stop it at any
time and go on with `--resume`: each step draws its random numbers from the seed and its own number.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import override

from segkit.text.small import SmallSizes, build_small
from segkit.text.training import ContrastiveTraining, Pairs, TrainingPlan
from tools.text.centre import centre
from tools.text.phrases import PHRASES, known_pairs_loss
from tools.text.pictures import MAX_KINDS, captioned_picture
from tools.text.validate import validate
from tools.text.vocabulary import VOCABULARY

EASY = 200
SIZES = SmallSizes()
PLAN = TrainingPlan("info_nce", rate=1e-3, warmup=20, floor=0.01)
TRAIN, VALIDATE, TEST = 1, 2, 3
"""First numbers of the seeds of pictures; no picture is in two of them."""


@dataclass(frozen=True, slots=True, eq=False)
class KnownPairs(Pairs):
    """Captioned pictures, and phrases of which `holds` says in which picture they are true."""

    phrases: Sequence[str]
    holds: Bool[Tensor, "images phrases"]


def draw(step: int, *, seed: int, batch: int, size: int) -> KnownPairs:
    """Pictures of one step, each with two captions: of a random kind in it, or twice of one.

    The first `EASY` steps show one kind of object, fully described.
    """
    most, drop = (1, 0.0) if step < EASY else (MAX_KINDS, 0.35)
    holds = np.zeros((batch, len(PHRASES)), bool)
    images, captions = [], ([], [])  # type: tuple[list[np.ndarray], tuple[list[str], list[str]]]
    for number in range(batch):
        picture = captioned_picture((TRAIN, seed, step, number), size, most)
        rng = np.random.default_rng((TRAIN, seed, step, number, 9))
        order = rng.permutation(len(picture.kinds))
        images.append(picture.image)
        holds[number] = [phrase.holds(picture.kinds) for phrase in PHRASES]
        captions[0].append(picture.caption(rng, int(order[0]), drop))
        captions[1].append(picture.caption(rng, int(order[-1]), drop))
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    rng = np.random.default_rng((TRAIN, seed, step, 0, 8))
    phrases = [phrase.words(rng) for phrase in PHRASES]
    return KnownPairs(pixels, captions, phrases, torch.from_numpy(holds))


class CaptionTraining(ContrastiveTraining):
    """The loss of CLIP on captions and, with `phrases`, that of phrases whose truth is known."""

    phrases = True

    @override
    def loss(self, pairs: Pairs) -> Float[Tensor, ""]:
        if not self.phrases:
            return super().loss(pairs)
        assert isinstance(pairs, KnownPairs)
        encoder, count = self.encoder, len(pairs.images)
        images = encoder.encode_image(encoder.pixels(pairs.images))
        sentences = [text for captions in pairs.captions for text in captions]
        texts = encoder.encode_text([*sentences, *pairs.phrases])
        *lists, phrases = texts.split([count] * len(pairs.captions) + [len(pairs.phrases)])
        scale = encoder.logit_scale
        plain = torch.stack([self.plain(images, captions, scale) for captions in lists]).mean()
        return plain + known_pairs_loss(scale * images @ phrases.T, pairs.holds)


def start(
    seed: int, batch: int, sizes: SmallSizes = SIZES, *, phrases: bool = True
) -> CaptionTraining:
    """A run at its first step."""
    encoder = build_small(sizes, VOCABULARY, name="nano_clip", seed=seed)
    draws = partial(draw, seed=seed, batch=batch, size=sizes.image_size)
    first = draw(EASY, seed=seed, batch=64, size=sizes.image_size)
    centre(encoder, first.images, [*first.captions[0], *first.captions[1]])
    training = CaptionTraining(encoder, PLAN, draws)
    training.phrases = phrases
    return training


def run(
    training: CaptionTraining,
    out: Path,
    *,
    seconds: float,
    wall: float = math.inf,
    steps: int | None = None,
    every: float = 60,
    batch: int = 32,
) -> None:
    """Train until the time (or the number of steps) is used, saving `every` so many seconds.

    `wall` is the most that this call may take by the clock, in seconds.
    """
    began, before = time.monotonic(), training.seconds
    saved, recent = training.seconds, []
    while True:
        progress = training.step / steps if steps else training.seconds / seconds
        if wall < math.inf and not steps:
            # what is left of the clock decides where it runs out before the processor time
            share = (time.monotonic() - began) / wall
            start = before / seconds
            progress = max(progress, start + (1 - start) * share)
        if progress >= 1:
            break
        recent.append(training.advance(progress))
        if training.seconds - saved > every:
            note(training, out, recent, batch)
            saved, recent = training.seconds, []
    note(training, out, recent, batch)


def note(training: CaptionTraining, out: Path, recent: list[dict[str, float]], batch: int) -> None:
    """Save the state and append a line of losses and validation scores to the log."""
    part = out / "state.ckpt.part"
    torch.save(training.state() | {"batch": batch, "phrases": training.phrases}, part)
    os.replace(part, out / "state.ckpt")
    line = {
        "minutes": round(training.seconds / 60, 2),
        "step": training.step,
        "images": training.step * batch,
        "loss": round(float(np.mean([row["loss"] for row in recent] or [0])), 4),
        "temperature": round(1 / training.encoder.logit_scale.item(), 4),
        "wall": time.strftime("%H:%M:%S"),
        **validate(training.encoder, VALIDATE),
    }
    training.encoder.train()
    with (out / "log.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m tools.text.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of state and log")
    parser.add_argument("--minutes", type=float, default=14, help="processor time in all")
    parser.add_argument(
        "--wall", type=float, default=math.inf, help="minutes by the clock, at most"
    )
    parser.add_argument("--steps", type=int, help="train this many steps instead of a time")
    parser.add_argument("--resume", action="store_true", help="go on from the state in --out")
    parser.add_argument("--every", type=float, default=60, help="seconds between two log lines")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--captions-only", action="store_true", help="without the phrases")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    training = start(args.seed, args.batch, phrases=not args.captions_only)
    if args.resume and (args.out / "state.ckpt").exists():
        training.resume(torch.load(args.out / "state.ckpt", weights_only=True))
    run(
        training,
        args.out,
        seconds=60 * args.minutes,
        wall=60 * args.wall,
        steps=args.steps,
        every=args.every,
        batch=args.batch,
    )


if __name__ == "__main__":
    main()
