"""Words on the command line: `segkit predict --text "a bright round lesion"`."""

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from segkit.cli import predict_video
from segkit.cli.predict_prompts import parse_slices
from segkit.data.volume import Picture, Volume
from segkit.data.writers import save
from segkit.errors import DataWarning, InputError
from segkit.predictors.session import Session
from segkit.text import Finding, RegionSettings, TextPrompter
from segkit.text.prompter import Slices
from segkit.text.template import Words, parse_words, read_words


class CommandWords:
    """The words of one command, and what they found in its inputs.

    Raises:
        InputError: An option cannot be read.
        CheckpointError: The encoder lacks a file.
        MissingExtraError: `open_clip` is not installed.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        if args.text and args.words is not None:
            raise InputError("--text and --words exclude each other", fix="leave one out")
        self.words: Words = {}
        self.findings: dict[str, list[dict[str, Any]]] = {}
        if args.words is not None:
            self.words = read_words(args.words)
        elif args.text:
            self.words = parse_words(args.text, args.label or "object")
        if not self.words:
            return
        from segkit.models.text_encoder import load_text_encoder

        self.kind: str = args.text_as
        self.slices = _slices(args.text_slices)
        encoder = load_text_encoder(args.text_encoder, checkpoint=args.text_checkpoint)
        with warnings.catch_warnings():  # each input warns by itself
            warnings.simplefilter("ignore", DataWarning)
            for wordings in self.words.values():  # said once, not for every input
                encoder.tokens(wordings)
        self.prompter = TextPrompter(encoder, regions=RegionSettings(keep=args.text_regions))

    def __bool__(self) -> bool:
        return bool(self.words)

    def apply(self, session: Session) -> bool:
        """Prompt the session with what the words say; whether there is anything to segment."""
        found = self.prompter.find_all(
            session.source, self.words, axis=session.slice_axis, slices=self.slices
        )
        self.findings[str(session.source.path)] = [one.to_dict() for one in found]
        for finding in found:
            one = session if finding is found[0] else session.object(finding.name)
            one.name = finding.name
            prompt(one, finding, self.kind)
        for finding in found:
            if not finding.places:
                warnings.warn(
                    f"the words for {finding.name!r} describe nothing in this image",
                    DataWarning,
                    stacklevel=2,
                )
        return any(finding.places for finding in found)

    def report(self) -> dict[str, object]:
        """What a run report says about the words; places are filled in as inputs come."""
        if not self.words:
            return {}
        words = {name: list(wordings) for name, wordings in self.words.items()}
        facts = {"words": words, "as": self.kind, "slices": self.slices}
        return {"text": facts | self.prompter.facts() | {"inputs": self.findings}}


def check(args: argparse.Namespace) -> None:
    """Refuse words where no model takes them.

    Raises:
        InputError: The input is a video, or several models share it.
    """
    if not args.text and args.words is None:
        return
    if len(args.models) > 1:
        raise InputError("words prompt one model", fix="leave the other models out")
    if predict_video.is_sequence(args):
        raise InputError(
            "words do not prompt videos", fix="use --box x0,y0,x1,y1@FRAME, or single pictures"
        )


def prompt(session: Session, finding: Finding, kind: str = "box") -> None:
    """Add the places of a finding to a session as boxes, points or both."""
    for place in finding.places:
        if kind in ("box", "both"):
            session.add_box(place.box)
    if finding.places and kind in ("point", "both"):
        session.add_points(list(finding.points), [1] * len(finding.places))


def save_nothing(output: Path, source: Volume | Picture, words: CommandWords) -> Path:
    """Write the empty mask of an input in which the words describe nothing."""
    shape = source.size if isinstance(source, Picture) else source.array.shape
    labels = dict(enumerate(words.words, start=1))
    save(output, np.zeros(shape, np.uint8), source, labels=labels)
    return output


def _slices(text: str) -> Slices:
    if text in ("best", "all"):
        return text  # type: ignore[return-value]
    start, stop = parse_slices(text)
    return (start or 0, stop if stop is not None else 2**31)
