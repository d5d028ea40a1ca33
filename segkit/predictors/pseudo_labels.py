"""Masks from words as training data: the weakly supervised second stage.

A case whose words or whose mask are doubtful is left out; what stays is a data set that
`segkit train` reads as it is, with a confidence for every case and every pixel beside it.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from segkit.data.atomic import atomic_file
from segkit.data.volume import Picture, Volume
from segkit.data.writers import save
from segkit.errors import InputError
from segkit.predictors.base import Predictor
from segkit.predictors.cohort import case_name, default_suffix
from segkit.predictors.uncertainty import Sampling
from segkit.text.prompter import Finding, Slices, TextPrompter

TABLE = "pseudo_labels.json"


@dataclass(frozen=True, slots=True)
class Rule:
    """What a case needs to be trained on.

    `confidence`: least mean confidence of its places (see `segkit.text.regions.Region`);
    `agreement`: least mean Dice between its mask and those from slightly moved prompts;
    `share`: least and largest part of the image that the mask may cover.
    """

    confidence: float = 0.2
    agreement: float = 0.6
    share: tuple[float, float] = (0.001, 0.6)

    def __post_init__(self) -> None:
        low, high = self.share
        if not (0 <= self.confidence <= 1 and 0 <= self.agreement <= 1 and 0 <= low < high <= 1):
            raise InputError(f"a rule's numbers must lie in [0, 1] in order, got {asdict(self)}")

    def reason(self, confidence: float, agreement: float, share: float) -> str | None:
        """Why a case is left out; None if it is not."""
        if confidence < self.confidence:
            return f"confidence {confidence:.2f} < {self.confidence:g}"
        if agreement < self.agreement:
            return f"agreement {agreement:.2f} < {self.agreement:g}"
        if not self.share[0] <= share <= self.share[1]:
            return f"share {share:.4f} outside of {self.share}"
        return None


@dataclass(frozen=True, slots=True, eq=False)
class PseudoLabel:
    """A mask from words; `sure` is the probability of the answer at each voxel, 0.5 to 1."""

    finding: Finding
    labels: UInt8[np.ndarray, "..."]
    sure: Float[np.ndarray, "..."]
    confidence: float
    agreement: float

    @property
    def share(self) -> float:
        """Part of the image that the mask covers."""
        return float((self.labels > 0).mean())


def pseudo_label(
    predictor: Predictor,
    prompter: TextPrompter,
    source: Volume | Picture,
    wordings: Sequence[str],
    *,
    slices: Slices = "best",
    sampling: Sampling | None = None,
) -> PseudoLabel | None:
    """Segment what the words describe; None where they describe nothing.

    Raises:
        InputError: The model takes no prompts, or there are no words.
    """
    session = predictor.open(source)
    finding = prompter.find(source, wordings, axis=session.slice_axis, slices=slices)
    if not finding.places:
        return None
    for place in finding.places:
        session.add_box(place.box)
    ensemble = session.ensemble(sampling or Sampling(samples=8))
    inside = np.where(ensemble.mask, ensemble.probability, 1 - ensemble.probability)
    return PseudoLabel(
        finding,
        ensemble.mask.astype(np.uint8),
        np.clip(inside, 0.5, 1).astype(np.float32),
        float(np.mean([place.confidence for place in finding.places])),
        ensemble.agreement,
    )


def write_pseudo_labels(
    predictor: Predictor,
    prompter: TextPrompter,
    images: Sequence[Path],
    wordings: Sequence[str],
    out: str | Path,
    *,
    name: str = "object",
    rule: Rule | None = None,
    slices: Slices = "best",
) -> dict[str, Any]:
    """Write a data set of masks from words; returns what `pseudo_labels.json` holds.

    Layout: `images/` (copies) and `labels/` of the cases that pass the rule, `confidence/` with
    the probability of the answer at each voxel in percent, and the table of all cases with the
    reasons of those left out, the words and every setting.

    Raises:
        InputError: Two images have the same name, or no case passes the rule.
    """
    out, rule = Path(out), rule or Rule()
    names = [case_name(path) for path in images]
    if twice := sorted({one for one in names if names.count(one) > 1}):
        raise InputError(f"several images are called {twice[0]!r}", fix="rename them")
    for folder in ("images", "labels", "confidence"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    rows = []
    for path, case in zip(images, names, strict=True):
        source = predictor.read(path)
        found = pseudo_label(predictor, prompter, source, wordings, slices=slices)
        row = _row(case, found, rule)
        rows.append(row)
        if found is not None and row["reason"] is None:
            _write(out, case, path, source, found, name)
    facts = {
        "format": 1,
        "name": name,
        "words": list(wordings),
        "model": predictor.sha256,
        "text": prompter.facts(),
        "rule": asdict(rule) | {"share": list(rule.share)},
        "kept": sum(row["reason"] is None for row in rows),
        "cases": rows,
    }
    with atomic_file(out / TABLE) as file:
        file.write((json.dumps(facts, indent=1) + "\n").encode())
    if not facts["kept"]:
        raise InputError(
            f"none of {len(rows)} cases passes the rule",
            path=out / TABLE,
            fix="look at the reasons there; other words or a milder rule may help",
        )
    return facts


def _row(case: str, found: PseudoLabel | None, rule: Rule) -> dict[str, Any]:
    if found is None:
        return {"case": case, "reason": "the words describe nothing in it"}
    numbers = {
        "confidence": round(found.confidence, 4),
        "agreement": round(found.agreement, 4),
        "share": round(found.share, 4),
    }
    reason = rule.reason(found.confidence, found.agreement, found.share)
    return {"case": case, "reason": reason, **numbers}


def _write(
    out: Path, case: str, path: Path, source: Volume | Picture, found: PseudoLabel, name: str
) -> None:
    suffix = default_suffix(path)
    shutil.copyfile(path, out / "images" / path.name)
    save(out / "labels" / f"{case}{suffix}", found.labels, source, labels={1: name})
    percent = np.rint(100 * found.sure).astype(np.uint8)
    save(out / "confidence" / f"{case}{suffix}", percent, source)
