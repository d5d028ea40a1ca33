"""Commands of a study run side by side, and one that fails ends it."""

import pytest

from tools.plan_study import RIVALS, run_together


def test_every_command_has_its_costs() -> None:
    costs = run_together({"one": ["--version"], "two": ["--help"]})
    assert set(costs) == {"one", "two"}
    assert all(0 < one["cpu"] <= 60 and one["wall"] > 0 for one in costs.values())


def test_a_command_that_fails_ends_the_study() -> None:
    with pytest.raises(SystemExit, match="failed: segkit measure nowhere"):
        run_together({"bad": ["measure", "nowhere.nii.gz"]})


def test_every_labelled_data_set_has_a_rival() -> None:
    assert len(RIVALS) == 6
    assert all("hand_written" in rows for rows in RIVALS.values())
