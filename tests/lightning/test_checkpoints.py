"""Checkpoints: atomic, checked, kept, and refused when damaged."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from segkit.errors import CheckpointError
from segkit.lightning import checkpoints
from segkit.lightning.checkpoints import find_checkpoint, read_checkpoint, write_checkpoint

STATE = {"state_dict": {"weight": torch.arange(5000.0)}, "step": 3, "lr": [1e-3], "name": "a"}


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A full disk: no file may grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_round_trip_leaves_one_file(tmp_path: Path) -> None:
    digest = write_checkpoint(STATE, tmp_path / "last.ckpt")
    state = read_checkpoint(tmp_path / "last.ckpt")
    assert torch.equal(state["state_dict"]["weight"], STATE["state_dict"]["weight"])
    assert {key: state[key] for key in ("step", "lr", "name")} == {
        "step": 3,
        "lr": [1e-3],
        "name": "a",
    }
    assert digest == checkpoints._sha256(tmp_path / "last.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    digests = {write_checkpoint(STATE, tmp_path / name / "last.ckpt") for name in _two(tmp_path)}
    assert len(digests) == 1


def _two(folder: Path) -> list[str]:
    for name in ("a", "b"):
        (folder / name).mkdir()
    return ["a", "b"]


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    for step in range(3):
        write_checkpoint(STATE | {"step": step}, path, keeps_previous=True)
    assert read_checkpoint(path)["step"] == 2
    assert read_checkpoint(tmp_path / "last.previous.ckpt")["step"] == 1


def test_full_disk_names_path_and_bytes_and_leaves_the_last_good_one(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    write_checkpoint(STATE | {"step": 1}, path)
    with (
        largest_file(4096),
        pytest.raises(CheckpointError, match=r"last\.ckpt: checkpoint not saved.*20,000 bytes"),
    ):
        write_checkpoint(STATE | {"step": 2}, path)
    assert read_checkpoint(path)["step"] == 1
    assert [each.name for each in tmp_path.iterdir()] == ["last.ckpt"]


def test_what_is_not_read_back_is_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    write_checkpoint(STATE, path)
    monkeypatch.setattr(checkpoints, "_sha256", lambda _: "0" * 64)
    with pytest.raises(CheckpointError, match="not saved: read back sha256 000000000000"):
        write_checkpoint(STATE | {"step": 4}, path)
    assert read_checkpoint(path)["step"] == 3


@pytest.mark.parametrize("moment", ["_sha256", "_fsync_folder"])
def test_kill_inside_the_write_leaves_a_loadable_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    path = tmp_path / "last.ckpt"
    write_checkpoint(STATE | {"step": 1}, path)

    def die(*_: object) -> None:
        raise SystemExit  # no cleanup of ours may be needed

    monkeypatch.setattr(checkpoints, moment, die)
    with pytest.raises(SystemExit):
        write_checkpoint(STATE | {"step": 2}, path, keeps_previous=True)
    monkeypatch.undo()
    assert read_checkpoint(find_checkpoint(tmp_path))["step"] in (1, 2)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    write_checkpoint(STATE, path)
    content = path.read_bytes()
    for part in range(64):
        path.write_bytes(content[: len(content) * part // 64])
        with pytest.raises(CheckpointError, match=r"last\.ckpt: (damaged|unreadable) checkpoint"):
            read_checkpoint(path)


def test_flipped_bit_in_a_tensor_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    write_checkpoint(STATE, path)
    content = bytearray(path.read_bytes())
    position = content.index(torch.tensor([77.0, 78.0]).numpy().tobytes())
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged checkpoint"):
        read_checkpoint(path)


def test_damaged_last_falls_back_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "last.ckpt"
    write_checkpoint(STATE | {"step": 1}, path)
    write_checkpoint(STATE | {"step": 2}, path, keeps_previous=True)
    path.write_bytes(path.read_bytes()[:100])
    assert read_checkpoint(find_checkpoint(tmp_path))["step"] == 1
    assert "resuming from last.previous.ckpt" in caplog.text


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "canary"),)

    torch.save({"state_dict": Payload()}, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match="unreadable checkpoint"):
        read_checkpoint(tmp_path / "last.ckpt")
    assert not (tmp_path / "canary").exists()


def test_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"last\.ckpt: no such checkpoint"):
        find_checkpoint(tmp_path)
