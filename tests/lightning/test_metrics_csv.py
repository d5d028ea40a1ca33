"""`metrics.csv` grows by columns and is cut where a run is resumed."""

from pathlib import Path

from segkit.lightning.metrics_csv import MetricsCsv


def test_metrics_of_one_step_share_a_row_and_new_columns_are_added(tmp_path: Path) -> None:
    log = MetricsCsv(tmp_path / "metrics.csv")
    log.save()
    assert not log.path.exists()
    log.log_metrics({"train/loss": 0.5, "epoch": 0.0}, step=1)
    log.log_metrics({"train/loss": 0.25, "epoch": 0.0}, step=2)
    log.log_metrics({"val/dice": 1 / 3, "epoch": 0.0}, step=2)
    log.finalize("success")
    assert log.path.read_text() == (
        "step,epoch,train/loss,val/dice\n1,0,0.5,\n2,0,0.25,0.33333333\n"
    )
    assert (log.name, log.version) == ("csv", "")


def test_rows_of_lost_work_are_dropped_on_resume(tmp_path: Path) -> None:
    log = MetricsCsv(tmp_path / "metrics.csv")
    for step in range(4):
        log.log_metrics({"loss": float(step)}, step=step)
    log.save()
    resumed = MetricsCsv(log.path, resumed_at=2)
    resumed.log_metrics({"loss": 2.0}, step=2)
    resumed.save()
    assert log.path.read_text() == "step,epoch,loss\n0,,0\n1,,1\n2,,2\n"
