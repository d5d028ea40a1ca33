"""Evaluation: every case on its own grid, beside the frozen backbone and trivial baselines."""

import segkit.torchvision_compat  # noqa: F401  (before anything that imports torchvision)
from segkit.evaluation.oracle import OracleProtocol
from segkit.evaluation.others import Others
from segkit.evaluation.runner import Evaluation, evaluate
from segkit.evaluation.settings import EvaluationSettings, RobustnessPlan, Scoring
from segkit.evaluation.statistics import Resampling

__all__ = [
    "Evaluation",
    "EvaluationSettings",
    "OracleProtocol",
    "Others",
    "Resampling",
    "RobustnessPlan",
    "Scoring",
    "evaluate",
]
