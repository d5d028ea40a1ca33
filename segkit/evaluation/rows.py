"""The rows of a result table: the adapted model, the frozen one, and trivial answers."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from segkit.data.preprocess import InputSpec
from segkit.errors import InputError
from segkit.evaluation.baselines import EllipseInBox, LocationPrior
from segkit.evaluation.prompted import OraclePredictor
from segkit.evaluation.samples import Sample
from segkit.evaluation.settings import EvaluationSettings
from segkit.evaluation.volume_user import VolumeOracle
from segkit.models.build import BUILDERS
from segkit.models.info import ModelInfo
from segkit.predictors.automatic import Look
from segkit.predictors.base import Predictor

ZERO_SHOT, ADAPTED = "zero_shot", "adapted"
AUTOMATIC_PROMPT = "none (automatic)"


@dataclass(frozen=True, slots=True)
class Row:
    """One method: `predict` returns a label map on the grid of the sample.

    `prompt` says in words what the method is told, `is_oracle` whether that comes from the
    reference, `note` what a reader must know to compare it. `watched` does what `predict` does and
    shows its probability maps on the way.
    """

    name: str
    title: str
    predict: Callable[[Sample], Integer[np.ndarray, "*shape"]]
    prompt: str
    is_oracle: bool
    note: str = ""
    watched: Callable[[Sample, Look], Integer[np.ndarray, "*shape"]] | None = None


def model_rows(
    predictor: Predictor,
    settings: EvaluationSettings,
    *,
    checkpoint: str | Path | None = None,
    labels: Mapping[int, str] | None = None,
) -> list[Row]:
    """Rows of the frozen backbone and of the model, in this order; a bare model has one row.

    Each number of clicks into a volume has a row of its own.

    `checkpoint` is the weight file of a backbone that does not ship with the package, `labels` the
    classes of a data set where the model names none.

    Raises:
        InputError: The model has no description, or neither it nor the caller names classes.
    """
    info, adapted = predictor.info, automatic_row(ADAPTED, "Adapted, no prompt", predictor)
    labels = (predictor.labels or labels) if info is not None else labels
    if not labels:
        raise InputError("no classes to evaluate", fix="name them with labels={1: 'name'}")
    if info is not None and BUILDERS[info.recipe.backbone.name].weights == "none":
        return [adapted]  # trained as a whole: there is nothing frozen
    is_automatic = predictor.segmenter.is_automatic
    if predictor.is_volumetric:
        # the model alone: a frozen lift has no decoder that was ever trained
        asked = replace(settings, protocol=replace(settings.protocol, per="volume"))
        if is_automatic:
            return [adapted]
        return oracle_rows(ADAPTED, "Adapted", predictor, labels, asked)
    if info is None:
        return oracle_rows(ZERO_SHOT, "Zero-shot (frozen)", predictor, labels, settings)
    size = f"{info.input.size} px"
    title = f"Zero-shot (frozen, {size})"
    if is_automatic:  # what stands beside it has no prompt
        title = f"Zero-shot, oracle {settings.protocol.kind} ({size})"
    model = _frozen(info, predictor, checkpoint)
    frozen = oracle_rows(ZERO_SHOT, title, model, labels, settings)
    if not is_automatic:
        return frozen + oracle_rows(ADAPTED, "Adapted", predictor, labels, settings)
    note = (
        "a frozen backbone has no automatic mode; it is given the oracle prompt, which the "
        "adapted row does without"
    )
    return [*(replace(row, note=note) for row in frozen), adapted]


def baseline_rows(
    settings: EvaluationSettings,
    labels: Mapping[int, str],
    spec: InputSpec,
    training: Iterable[Sample] | None,
    *,
    is_automatic: bool,
) -> list[Row]:
    """Trivial rows that were asked for; the location prior needs `training` references."""
    rows = []
    if "box_ellipse" in settings.baselines:
        protocol = replace(settings.protocol, kind="box", jitter=0.0, per="slice")
        ellipse = EllipseInBox(labels, spec, protocol)
        rows.append(
            Row(
                "box_ellipse",
                "Ellipse in the oracle box",
                ellipse,
                protocol.describe(),
                is_oracle=True,
                note="never looks at the image: what the box alone gives away",
            )
        )
    if "location_prior" in settings.baselines and is_automatic and training is not None:
        prior = LocationPrior.fit(training, labels, spec)
        rows.append(
            Row(
                "location_prior",
                "Location prior",
                prior,
                "none (mean training mask in the model frame)",
                is_oracle=False,
                note="never looks at the image: what the position alone gives away",
            )
        )
    return rows


def automatic_row(name: str, title: str, predictor: Predictor) -> Row:
    """Row of a model that finds its classes without being told anything."""
    return Row(
        name,
        title,
        lambda sample: predictor.segment(sample.source),
        AUTOMATIC_PROMPT,
        is_oracle=False,
        watched=lambda sample, look: predictor.segment(sample.source, look=look),
    )


def oracle_rows(
    name: str,
    title: str,
    predictor: Predictor,
    labels: Mapping[int, str],
    settings: EvaluationSettings,
) -> list[Row]:
    """Rows of a model that is prompted by the oracle of `settings`.

    One row, or one for each number of clicks into a volume, the fewest first.
    """
    protocol = settings.protocol
    if protocol.per == "slice":
        oracle = OraclePredictor(predictor, dict(labels), protocol, settings.seed)
        prompt = protocol.describe()
        return [Row(name, title, oracle, prompt, is_oracle=True, watched=oracle.watched)]
    first = VolumeOracle(predictor, dict(labels), protocol, settings.seed)
    if protocol.kind == "box":
        return [Row(name, title, first, protocol.describe(), is_oracle=True)]
    rows: list[Row] = []
    for count in sorted(set(protocol.counts)):
        asked = replace(first, protocol=replace(protocol, clicks=count))
        clicks = "1 click" if count == 1 else f"{count} clicks"
        row_name = f"{name}_{count}_clicks" if rows else name
        told = asked.protocol.describe()
        rows.append(Row(row_name, f"{title}, {clicks}", asked, told, is_oracle=True))
    return rows


def _frozen(info: ModelInfo, adapted: Predictor, checkpoint: str | Path | None) -> Predictor:
    """The backbone of a model without its adapter, its mask decoder as pretrained."""
    origin = info.recipe.backbone
    segmenter = BUILDERS[origin.name](checkpoint=checkpoint, image_size=origin.image_size)
    frozen = ModelInfo.of(segmenter, labels=info.labels, input=info.input)
    return Predictor(segmenter, frozen, device=str(adapted.device))
