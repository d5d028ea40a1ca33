"""The document of `summary.json`."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from segkit.evaluation.measuring import Measured
from segkit.evaluation.rows import ADAPTED, ZERO_SHOT, Row
from segkit.evaluation.settings import EvaluationSettings
from segkit.evaluation.statistics import Resampling
from segkit.metrics import describe_metrics
from segkit.predictors.base import Predictor
from segkit.version import VERSION

FORMAT = 1


def tables(
    measured: Measured, rows: Sequence[Row], settings: EvaluationSettings
) -> dict[str, object]:
    """Definitions, classes and mean of the headline row, and all rows with their differences.

    The headline is the adapted model, or the only row of a bare one.
    """
    scoring, table = settings.scoring, measured.table
    resampling = scoring.resampling
    names = [row.name for row in rows]
    headline = ADAPTED if ADAPTED in names else ZERO_SHOT if ZERO_SHOT in names else names[0]
    by_row = {row.name: _entry(row, measured, resampling) for row in rows}
    unit = unit_of(measured)
    return {
        "definitions": {
            **describe_metrics(scoring.definition, scoring.tolerance_mm, unit),
            **measured.maps.definitions(),
        },
        "unit": unit,
        "tolerance": scoring.tolerance_mm,
        "bootstrap": {
            "resamples": resampling.resamples,
            "level": resampling.level,
            "method": resampling.method,
            "seed": resampling.seed,
            "unit": "subject",
            "subjects": len(set(table.groups(headline))),
        },
        "headline": headline,
        "classes": by_row[headline]["classes"],
        "mean": by_row[headline]["mean"],
        "rows": by_row,
        "differences": {
            f"{headline} - {other}": table.compare(headline, other, resampling)
            for other in names
            if other != headline
        },
        "prompt": {row.name: row.prompt for row in rows},
    }


def _entry(row: Row, measured: Measured, resampling: Resampling) -> dict[str, Any]:
    return {
        "title": row.title,
        **measured.table.summarise(row.name, resampling),
        **measured.maps.summarise(row.name, resampling),
        "prompt": row.prompt,
        "is_oracle": row.is_oracle,
        "note": row.note,
    }


def unit_of(measured: Measured) -> str:
    """Unit of all distances; a split that mixes pixels and millimetres says so."""
    return next(iter(measured.units)) if len(measured.units) == 1 else "mm or px"


def model_name(predictor: Predictor, model: str) -> str:
    """What the model is made of; the name of a bare one. Never a path."""
    if predictor.info is None:
        return model
    recipe = predictor.info.recipe
    adapter = recipe.adapter.target.rpartition(".")[2]
    return recipe.backbone.name if adapter == "Adapter" else f"{recipe.backbone.name} + {adapter}"


def facts(predictor: Predictor) -> dict[str, str]:
    """What a reader needs to know to repeat the run; no names of files or machines."""
    segmenter, info = predictor.segmenter, predictor.info
    total = sum(parameter.numel() for parameter in segmenter.parameters())
    learned = sum(tensor.numel() for tensor in segmenter.trainable_state().values())
    found = {
        "mode": "automatic" if segmenter.is_automatic else "interactive",
        "parameters": f"{total:,} in all, {learned:,} trained ({learned / total:.1%})",
    }
    if info is not None:
        recipe = info.recipe
        found |= {
            "backbone": recipe.backbone.name,
            "backbone_sha256": recipe.backbone.sha256,
            "adapter": _part(recipe.adapter.target, recipe.adapter.args),
            "decoder": _part(recipe.decoder.target, recipe.decoder.args),
            "input": f"{info.input.size} px, {info.input.channels}, {info.input.intensity.kind}",
            "trained_with": f"segkit {info.segkit_version}",
        }
    device = predictor.device.type
    if device == "cuda":
        device = torch.cuda.get_device_name(predictor.device)
    return found | {
        "evaluated_with": f"segkit {VERSION}, torch {torch.__version__}",
        "device": f"{device}, {torch.get_num_threads()} threads",
    }


def _part(target: str, args: Mapping[str, Any]) -> str:
    listed = ", ".join(f"{name}={value}" for name, value in args.items())
    return f"{target.rpartition('.')[2]}({listed})"
