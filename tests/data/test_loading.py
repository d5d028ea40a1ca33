import os
import signal
import time
from collections.abc import Callable, Sequence

import pytest
import torch

from segkit.data.loading import Board, GuardedLoader, LoaderSpec, Skips, WorkerError
from segkit.data.sampling import Draw
from segkit.errors import DataWarning, InputError

NAMES = [f"case_{index}" for index in range(12)]


def load(key: Draw | int) -> int:
    return key.index if isinstance(key, Draw) else key


def refuse_some(key: int) -> int:
    """Cases 3 and 7 cannot be read."""
    if key in (3, 7):
        raise InputError("it is damaged", path=f"file_{key}.png", fix="copy it again")
    return key


def die_at_five(key: int) -> int:
    if key == 5:
        os.kill(os.getpid(), signal.SIGSEGV)
    return key


def hang_at_five(key: int) -> int:
    if key == 5:
        time.sleep(60)
    return key


def fail_at_five(key: int) -> int:
    if key == 5:
        raise RuntimeError("a fault of ours")
    return key


def loader(
    read: Callable[[int], int],
    spec: LoaderSpec,
    keys: Sequence[int] = range(12),
    skips: Skips | None = None,
) -> GuardedLoader[list[int]]:
    return GuardedLoader(read, keys, list, spec, name=NAMES.__getitem__, skips=skips or Skips(spec))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_come_in_order(workers: int) -> None:
    batches = loader(load, LoaderSpec(batch_size=5, workers=workers))
    assert list(batches) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]
    assert len(batches) == 3


def test_draws_are_keys_too() -> None:
    spec = LoaderSpec(batch_size=2)
    draws = [Draw(4, 1), Draw(4, 0)]
    batches = GuardedLoader(load, draws, list, spec, name=NAMES.__getitem__, skips=Skips(spec))
    assert list(batches) == [[1, 0]]


def test_the_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    list(loader(load, LoaderSpec()))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_that_cannot_be_read_stops_the_run_and_names_its_file(workers: int) -> None:
    batches = iter(loader(refuse_some, LoaderSpec(batch_size=2, workers=workers)))
    assert next(batches) == [0, 1]
    with pytest.raises(InputError, match=r"^file_3.png: it is damaged; copy it again$") as info:
        next(batches)
    assert str(info.value.path) == "file_3.png"


def test_an_error_without_a_file_names_the_case() -> None:
    def refuse(key: int) -> int:
        raise InputError("no idea", fix="think")

    with pytest.raises(InputError, match=r"^case 'case_0': no idea; think$"):
        list(loader(refuse, LoaderSpec()))


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_are_left_out_and_counted(workers: int) -> None:
    spec = LoaderSpec(batch_size=4, workers=workers, on_error="skip", skip_limit=2)
    skips = Skips(spec)
    with pytest.warns(DataWarning, match=r"case 'case_\d' is left out: file_\d.png: it is damaged"):
        batches = list(loader(refuse_some, spec, skips=skips))
    assert batches == [[0, 1, 2], [4, 5, 6], [8, 9, 10, 11]]
    assert skips.names == {"case_3", "case_7"}
    # the same cases again are no new faults and no new warnings
    assert len(list(loader(refuse_some, spec, skips=skips))) == 3


def test_a_batch_without_any_sample_is_left_out() -> None:
    spec = LoaderSpec(batch_size=1, on_error="skip")
    with pytest.warns(DataWarning, match="left out"):
        assert list(loader(refuse_some, spec, keys=[2, 3, 4])) == [[2], [4]]


def test_too_many_left_out_stop_the_run() -> None:
    spec = LoaderSpec(on_error="skip", skip_limit=1)
    expected = "2 cases could not be read, allowed are 1; the last one: file_7.png: it is damaged"
    with (
        pytest.warns(DataWarning, match="case_3"),
        pytest.raises(InputError, match=expected) as info,
    ):
        list(loader(refuse_some, spec))
    assert info.value.option == "skip_limit"


def test_a_killed_worker_names_the_case() -> None:
    batches = loader(die_at_five, LoaderSpec(batch_size=1, workers=2))
    expected = r"a data worker .*(killed by signal|exited unexpectedly).* reading case 'case_5'; if"
    with pytest.raises(WorkerError, match=expected):
        list(batches)


def test_a_hanging_worker_names_the_case() -> None:
    batches = loader(hang_at_five, LoaderSpec(batch_size=1, workers=2, timeout_s=1.5))
    start = time.monotonic()
    expected = r"gave nothing for 1.5 s while reading case 'case_5'; check the file and its disk"
    with pytest.raises(WorkerError, match=expected):
        list(batches)
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("workers", [0, 1])
def test_other_errors_stay_what_they_are(workers: int) -> None:
    with pytest.raises(RuntimeError, match="a fault of ours") as info:
        list(loader(fail_at_five, LoaderSpec(workers=workers)))
    assert not isinstance(info.value, WorkerError)


def test_explain_outside_of_the_loader() -> None:
    batches = loader(load, LoaderSpec(workers=2))
    death = RuntimeError("DataLoader worker (pid 17) is killed by signal: Killed. ")
    assert "killed by signal: Killed between two cases" in str(batches.explain(death))
    assert batches.explain(RuntimeError("out of memory")) is None


def test_the_board_knows_the_longest_running_first(monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(2)
    for worker, (position, now_s) in enumerate([(8, 5.0), (3, 2.0)]):
        info = type("Info", (), {"id": worker})
        monkeypatch.setattr("segkit.data.loading.get_worker_info", lambda info=info: info)
        monkeypatch.setattr("segkit.data.loading.time.monotonic", lambda now_s=now_s: now_s)
        board.enter(position)
    assert board.busy() == [3, 8]
    assert board.of_process(os.getpid()) in (3, 8)
    board.leave()
    assert board.busy() == [8]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"batch_size": 0},
            "batch_size must be >= 1, workers >= 0 and timeout_s > 0, got 0, 0, 300",
        ),
        ({"workers": -1}, "got 8, -1, 300"),
        ({"on_error": "ignore"}, "on_error must be 'stop' or 'skip', got 'ignore'"),
        ({"skip_limit": -1}, "skip_limit must be >= 0, got -1"),
    ],
)
def test_spec_faults(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LoaderSpec(**options)  # type: ignore[arg-type]
