"""Agreement of masks with their reference, and measurements of one mask; numpy only."""

from segkit.metrics.case import CaseMetrics, case_metrics, describe_metrics, label_metrics

__all__ = ["CaseMetrics", "case_metrics", "describe_metrics", "label_metrics"]
