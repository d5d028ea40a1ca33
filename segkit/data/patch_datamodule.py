"""Training and validation batches of blocks of volumes from a data set on disk."""

from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

from typing_extensions import override

from segkit.data.datamodule import Reading, SliceDataModule, warn_of_bare
from segkit.data.loading import GuardedLoader
from segkit.data.patches import BlockBatch, BlockSamples, BlockSpec, collate_blocks
from segkit.data.preprocess import InputSpec
from segkit.data.sampling import EpochSampler
from segkit.errors import InputError


class BlockDataModule(SliceDataModule):
    """Blocks of the training and validation cases, for models that see three dimensions.

    Cases are oriented and brought to the spacing of `model_input` once and kept on disk. Training
    draws `blocks.per_case` blocks of each case per epoch; validation sees one block per case, in
    the middle of its labels, so its Dice is that of blocks. Whole volumes are what an evaluation
    measures. `blocks` None trains on unchanged blocks in the middle.

    Example:
        >>> block = InputSpec(channels="repeat", patch=(40, 56, 40))
        >>> data = BlockDataModule("Task04_Hippocampus", model_input=block)  # doctest: +SKIP
    """

    def __init__(
        self,
        root: str | Path,
        *,
        model_input: InputSpec,
        augment: BlockSpec | None = None,
        **reading: Unpack[Reading],
    ) -> None:
        if model_input.patch is None:
            raise InputError(
                "blocks need the size of a patch", fix="set patch=(k, j, i) in the input"
            )
        super().__init__(root, model_input=model_input, **reading)
        self.patch, self.blocks = model_input.patch, augment

    @cached_property
    @override
    def train_samples(self) -> Any:
        cases, stacks = self._opened("train")
        warn_of_bare(cases, stacks)
        seed = self.loader.seed
        return BlockSamples(cases, stacks, self._cache, self.patch, spec=self.blocks, seed=seed)

    @cached_property
    @override
    def val_samples(self) -> Any:
        cases, stacks = self._opened("val")
        return BlockSamples(cases, stacks, self._cache, self.patch)

    @override
    def train_loader(
        self, epoch: int, *, start: int = 0, rank: int = 0, ranks: int = 1
    ) -> GuardedLoader[Any]:
        first = start * self.loader.batch_size
        samples, seed = self.train_samples, self.loader.seed
        sampler = EpochSampler(len(samples), seed, epoch, first, rank=rank, ranks=ranks)
        return self._loader(samples, sampler)

    @override
    def val_loader(self, *, rank: int = 0, ranks: int = 1) -> GuardedLoader[Any]:
        samples = self.val_samples
        return self._loader(samples, range(rank, len(samples), ranks))

    def _loader(self, samples: BlockSamples, order: Any) -> GuardedLoader[BlockBatch]:
        return GuardedLoader(
            samples.load, order, collate_blocks, self.loader, name=samples.name, skips=self._skips
        )
