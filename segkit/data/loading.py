"""Worker processes whose faults are named: which case was being read when one died or hung."""

import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from segkit.data.sampling import Draw
from segkit.errors import DataWarning, InputError, SegkitError

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class LoaderSpec:
    """How data is loaded.

    `workers` 0 loads in the main process (then there is no time limit). `timeout_s` is how long a
    batch may take. A sample that cannot be read stops the run (`on_error="stop"`) or is left out
    ("skip") until `skip_limit` were left out. `seed` decides order and random changes.
    """

    batch_size: int = 8
    workers: int = 0
    timeout_s: float = 300.0
    on_error: Literal["stop", "skip"] = "stop"
    skip_limit: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.workers < 0 or self.timeout_s <= 0:
            raise InputError(
                "batch_size must be >= 1, workers >= 0 and timeout_s > 0, got "
                f"{self.batch_size}, {self.workers}, {self.timeout_s}"
            )
        if self.on_error not in ("stop", "skip"):
            raise InputError(f"on_error must be 'stop' or 'skip', got {self.on_error!r}")
        if self.skip_limit < 0:
            raise InputError(f"skip_limit must be >= 0, got {self.skip_limit}")


class WorkerError(SegkitError, RuntimeError):
    """A worker process died or hung; the message names what it was reading."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A sample that could not be read."""

    name: str
    error: InputError


class Board:
    """What each worker is reading, in memory shared between the processes."""

    def __init__(self, workers: int) -> None:
        # columns: process id, position being read or -1, start in milliseconds
        self._rows: Tensor = torch.full((max(1, workers), 3), -1, dtype=torch.int64)
        self._rows.share_memory_()

    def enter(self, position: int) -> None:
        """Note that this worker starts to read a sample."""
        self._write([os.getpid(), position, int(time.monotonic() * 1000)])

    def leave(self) -> None:
        """Note that it has finished."""
        self._write([os.getpid(), -1, -1])

    def busy(self) -> list[int]:
        """Positions being read, the longest-running first."""
        rows = [row for row in self._rows.tolist() if row[1] >= 0]
        return [row[1] for row in sorted(rows, key=lambda row: row[2])]

    def of_process(self, process_id: int) -> int | None:
        """Position a process was reading."""
        rows = self._rows.tolist()
        return next((row[1] for row in rows if row[0] == process_id and row[1] >= 0), None)

    def _write(self, row: list[int]) -> None:
        info = get_worker_info()
        if info is not None:
            self._rows[info.id] = torch.tensor(row)


class Skips:
    """Cases left out so far, against the limit; shared by all loaders of a run."""

    def __init__(self, spec: LoaderSpec) -> None:
        self._spec = spec
        self.names: set[str] = set()

    def count(self, fault: Fault) -> None:
        """Stop the run, or warn and count a case once.

        Warns:
            DataWarning: A case is left out.

        Raises:
            InputError: The policy is "stop", or the limit is exceeded.
        """
        if self._spec.on_error == "stop":
            raise _named(fault)
        if fault.name in self.names:
            return
        self.names.add(fault.name)
        if len(self.names) > self._spec.skip_limit:
            raise InputError(
                f"{len(self.names)} cases could not be read, allowed are {self._spec.skip_limit}; "
                f"the last one: {fault.error}",
                fix="repair the data set, or raise skip_limit",
                code="too_many_skipped",
                option="skip_limit",
            ) from fault.error
        warnings.warn(f"case {fault.name!r} is left out: {fault.error}", DataWarning, stacklevel=3)


def _named(fault: Fault) -> InputError:
    """The refusal as it is if it names a file, else with the name of the case."""
    if fault.error.path is not None:
        return fault.error
    return InputError(
        f"case {fault.name!r}: {fault.error.cause}", fix=fault.error.fix, code=fault.error.code
    )


class GuardedLoader(Generic[Item]):
    """A torch DataLoader that names the sample behind each fault.

    `load` reads one key of `sampler` (an index or a `Draw`) and raises `InputError` for a sample
    that cannot be read; `name` tells the case of an index; `collate` joins the items of a batch. A
    batch is smaller when samples are left out, and is left out itself when none remains.

    Raises, while iterating:
        InputError: As `Skips.count`.
        WorkerError: A worker died, or a batch took longer than `timeout_s`.
    """

    def __init__(
        self,
        load: Callable[[Any], Any],
        sampler: Sampler[Any] | Sequence[Draw | int],
        collate: Callable[[list[Any]], Item],
        spec: LoaderSpec,
        *,
        name: Callable[[int], str],
        skips: Skips,
    ) -> None:
        self._name, self._skips = name, skips
        self._board = Board(spec.workers)
        self._timeout_s = spec.timeout_s
        self._loader: DataLoader[Any] = DataLoader(
            _Guarded(load, name, self._board),
            batch_size=spec.batch_size,
            sampler=sampler,
            num_workers=spec.workers,
            collate_fn=_Collate(collate),
            timeout=spec.timeout_s if spec.workers else 0,
            pin_memory=torch.cuda.is_available(),
            # without a generator of its own each epoch would draw from the global one
            generator=torch.Generator().manual_seed(spec.seed),
        )

    def __len__(self) -> int:
        """Number of batches, if none is left out."""
        return len(self._loader)

    def __iter__(self) -> Iterator[Item]:
        iterator = iter(self._loader)
        # an iterator that the garbage collector finds in a traceback takes 5 s per worker to end:
        # so no frame of a traceback may hold it
        try:
            while (found := self._next(iterator)) is not None:
                batch, faults = found
                for fault in faults:
                    self._skips.count(fault)
                if batch is not None:
                    yield batch
        finally:
            del iterator

    def _next(self, iterator: Iterator[Any]) -> tuple[Item | None, tuple[Fault, ...]] | None:
        """What could and could not be read of the next batch; None at the end."""
        try:
            found: tuple[Item | None, tuple[Fault, ...]] | None = next(iterator, None)
        except RuntimeError as error:
            del iterator
            if (named := self.explain(error)) is None:
                raise
            raise named from error.with_traceback(None)
        return found

    def explain(self, error: RuntimeError) -> WorkerError | None:
        """Name the sample behind an error of a worker process; None for any other error.

        torch raises the death of a worker from a signal handler, so it may surface in the code
        that uses the batches rather than in the loader.
        """
        text = str(error)
        if died := re.search(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)", text):
            pids = [int(part) for part in died[1].split(",")]
            positions = [p for p in map(self._board.of_process, pids) if p is not None]
            what = died[2].strip().rstrip(".")
            fix = "if the file is sound, lower workers or batch_size (memory), then resume the run"
        elif "DataLoader timed out" in text:
            positions = self._board.busy()
            what = f"gave nothing for {self._timeout_s:g} s"
            fix = "check the file and its disk, or raise timeout_s, then resume the run"
        else:
            return None
        cases = ", ".join(dict.fromkeys(repr(self._name(one)) for one in positions))
        reading = f"while reading case {cases}" if cases else "between two cases"
        return WorkerError(f"a data worker {what} {reading}; {fix}")


class _Guarded(Dataset[Any]):
    """Turns refusals into values and notes on the board what is being read."""

    def __init__(
        self, load: Callable[[Any], Any], name: Callable[[int], str], board: Board
    ) -> None:
        self.load, self.name, self.board = load, name, board

    def __getitem__(self, key: Draw | int) -> Any:
        position = key.index if isinstance(key, Draw) else key
        self.board.enter(position)
        try:
            return self.load(key)
        except InputError as error:
            return Fault(self.name(position), error)
        finally:
            self.board.leave()


class _Collate(Generic[Item]):
    """Joins what could be read and hands on what could not."""

    def __init__(self, collate: Callable[[list[Any]], Item]) -> None:
        self.collate = collate

    def __call__(self, items: list[Any]) -> tuple[Item | None, tuple[Fault, ...]]:
        faults = tuple(item for item in items if isinstance(item, Fault))
        read = [item for item in items if not isinstance(item, Fault)]
        return (self.collate(read) if read else None), faults
