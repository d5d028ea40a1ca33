"""The bridge between `SliceDataModule` and the trainer: epochs, positions, processes."""

from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any, Protocol

from lightning.pytorch import LightningDataModule
from typing_extensions import override

from segkit.data.batches import ImageBatch
from segkit.data.cases import Case
from segkit.data.preprocess import InputSpec
from segkit.errors import InputError, SegkitError


class Batches(Iterable[ImageBatch], Sized, Protocol):
    """Batches whose number is known."""

    def explain(self, error: RuntimeError) -> SegkitError | None:
        """Name the sample behind the death of a data worker; None for any other error."""


class Slices(Protocol):
    """What `segkit.data.datamodule.SliceDataModule` offers and a trainer needs."""

    @property
    def labels(self) -> dict[int, str]:
        """Names by class, without background."""

    @property
    def model_input(self) -> InputSpec:
        """How files become model inputs."""

    @property
    def fingerprint(self) -> str:
        """Hash of the contents of all training and validation cases."""

    def prepare(self) -> None:
        """Read every case once."""

    def cases(self, split: Any) -> Sequence[Case]:
        """Cases of "train" or "val"."""

    def train_loader(self, epoch: int, *, start: int = 0, rank: int = 0, ranks: int = 1) -> Batches:
        """Batches of an epoch after the first `start`, for process `rank` of `ranks`."""

    def val_loader(self, *, rank: int = 0, ranks: int = 1) -> Batches:
        """All validation slices."""


class EpochBatches:
    """Training batches of one epoch after another, the first one perhaps from its middle on.

    Its length is that of a whole epoch, since the trainer counts the batches before an interruption
    too. The trainer tells the epoch to what it takes for the sampler.
    """

    def __init__(self, slices: Slices, epoch: int, start: int, rank: int, ranks: int):
        self.slices, self.epoch, self.start = slices, epoch, start
        self.processes = {"rank": rank, "ranks": ranks}
        self.loader = slices.train_loader(0, **self.processes)
        self._length = len(self.loader)

    @property
    def sampler(self) -> "EpochBatches":
        """Where the trainer looks for `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Turn to an epoch; any but the first one starts at its beginning."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[ImageBatch]:
        self.loader = self.slices.train_loader(self.epoch, start=self.start, **self.processes)
        yield from self.loader


class SegmentationData(LightningDataModule):
    """Training and validation batches for the trainer; the test cases cannot be reached.

    Its state in a checkpoint is the position (epoch, batches done), which together with the seed
    decides all further batches.
    """

    def __init__(self, slices: Slices) -> None:
        super().__init__()
        self.slices = slices
        self.position = (0, 0)
        self._batches: EpochBatches | None = None
        self._fingerprint = ""

    @property
    def labels(self) -> dict[int, str]:
        """Names by class, without background."""
        return self.slices.labels

    @property
    def input(self) -> InputSpec:
        """How files become model inputs."""
        return self.slices.model_input

    @property
    def images_recur(self) -> bool:
        """Whether training shows the same pixels in every epoch."""
        change = getattr(self.slices, "augment", False)
        return change is None or bool(getattr(change, "variants", 0))

    @property
    def fingerprint(self) -> str:
        """Hash of the contents of all training and validation cases."""
        if not self._fingerprint:
            self._fingerprint = self.slices.fingerprint
        return self._fingerprint

    @override
    def setup(self, stage: str) -> None:
        """Prepare the cases.

        Raises:
            InputError: There is no case to train on, or none to validate on.
        """
        self.slices.prepare()
        for side in ("train", "val"):
            if not self.slices.cases(side):
                raise InputError(
                    f"the {side} side of the data has no case",
                    fix="add cases, or change data.fraction or data.fold",
                    code="empty_split",
                )

    @override
    def train_dataloader(self) -> EpochBatches:
        self._batches = EpochBatches(self.slices, *self.position, *self._processes())
        return self._batches

    @override
    def val_dataloader(self) -> Batches:
        rank, ranks = self._processes()
        return self.slices.val_loader(rank=rank, ranks=ranks)

    @override
    def state_dict(self) -> dict[str, Any]:
        if self.trainer is None:
            return {"epoch": self.position[0], "batches": self.position[1]}
        loop = self.trainer.fit_loop
        done: Any = loop.epoch_progress.current
        if done.processed > done.completed:  # saved at the end of an epoch
            return {"epoch": done.processed, "batches": 0}
        batches: Any = loop.epoch_loop.batch_progress.current
        return {"epoch": done.completed, "batches": batches.processed}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.position = (state_dict["epoch"], state_dict["batches"])

    def explain(self, error: RuntimeError) -> SegkitError | None:
        """Name the sample behind the death of a data worker, which may surface anywhere."""
        return None if self._batches is None else self._batches.loader.explain(error)

    def _processes(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size
