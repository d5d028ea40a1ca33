"""The run folder: one owner, compared settings, nothing half-written."""

import subprocess
import sys
from pathlib import Path

import pytest

from segkit.errors import CheckpointError, InputError
from segkit.lightning.run_folder import RunFolder, differences, flatten

HOLD = """
import sys
from segkit.lightning.run_folder import RunFolder
with RunFolder(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_second_owner_is_refused_and_told_who_holds_the_folder(tmp_path: Path) -> None:
    with (
        RunFolder(tmp_path),
        pytest.raises(InputError, match=r"another training runs in this folder \(process \d+ on"),
        RunFolder(tmp_path),
    ):
        pass


def test_stale_lock_of_a_dead_process_is_taken_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run.lock").write_text("process 999999 on elsewhere\n")
    with caplog.at_level("INFO"), RunFolder(tmp_path) as run:
        assert f"process {__import__('os').getpid()} " in run.lock_path.read_text()
    assert "taken over a stale lock of process 999999 on elsewhere" in caplog.text


def test_folder_can_be_owned_again(tmp_path: Path) -> None:
    for _ in range(2):
        with RunFolder(tmp_path):
            pass


def test_partial_files_are_removed_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt.partial").write_text("half")
    with RunFolder(tmp_path) as run:
        assert list(run.checkpoints.iterdir()) == []


def test_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match=r"run folder cannot be written.*with run=PATH"),
        RunFolder(tmp_path / "file" / "run"),
    ):
        pass


def test_storage_that_forgets_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "")
    with pytest.raises(InputError, match="could not be read back"), RunFolder(tmp_path):
        pass


def test_old_run_is_not_overwritten(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as run:
        run.refuse_to_overwrite()
        (run.checkpoints / "last.ckpt").write_text("")
        with pytest.raises(InputError, match=r"holds a training run.*ckpt_path=last"):
            run.refuse_to_overwrite()
        with pytest.raises(CheckpointError, match="damaged checkpoint"):
            run.resume_from("last")


def test_changed_settings_are_listed_refused_or_recorded(tmp_path: Path) -> None:
    old = {"optimizer": {"lr": 1e-3, "betas": (0.9, 0.99)}, "data": {"root": "/a"}, "run": "x"}
    new = {"optimizer": {"lr": 1e-4, "betas": [0.9, 0.99]}, "data": {"root": "/b"}, "seed": 1}
    with RunFolder(tmp_path) as run:
        assert run.keep_config(old, is_resumed=False) == {}
        assert run.keep_config(old, is_resumed=True) == {}
        message = r"optimizer\.lr: 0\.001 -> 0\.0001, seed: None -> 1.*allow_changes=true"
        with pytest.raises(InputError, match=message):
            run.keep_config(new, is_resumed=True)
        changes = run.keep_config(new, is_resumed=True, allow_changes=True)
        assert changes == {"optimizer.lr": [1e-3, 1e-4], "seed": [None, 1]}
        assert "lr: 0.0001" in (tmp_path / "config.yaml").read_text()


def test_data_may_move_and_be_loaded_otherwise() -> None:
    old = {"data": {"root": "/a", "slices": {"root": "/a", "loader": {"workers": 0, "seed": 0}}}}
    new = {"data": {"root": "/b", "slices": {"root": "/b", "loader": {"workers": 4, "seed": 1}}}}
    assert differences(old, new) == {"data.slices.loader.seed": [0, 1]}


def test_differences_look_into_nested_settings() -> None:
    assert differences({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}) == {"a.b": [[1, 2], [1, 3]]}
    assert flatten({"a": {}, "b": {"c": 1}}) == {"a": {}, "b.c": 1}


@pytest.mark.slow
def test_lock_ends_with_the_process(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(InputError, match=f"process {holder.pid} on"), RunFolder(tmp_path):
        pass
    holder.kill()
    holder.communicate()
    with RunFolder(tmp_path):
        pass
