"""Training and validation batches of slices from a data set on disk."""

import hashlib
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, TypedDict

from segkit.data.batches import ImageBatch, collate
from segkit.data.cache import StackCache
from segkit.data.cases import Case, shorten
from segkit.data.datasets import Dataset, find_cases
from segkit.data.label_options import LabelOptions
from segkit.data.loading import Fault, GuardedLoader, LoaderSpec, Skips
from segkit.data.options import ReadOptions
from segkit.data.preparation import Recipe
from segkit.data.preprocess import InputSpec
from segkit.data.samples import SliceSamples
from segkit.data.sampling import Empty, EpochSampler, check_empty, slice_table
from segkit.data.splits import Splits, SplitSpec, split_cases
from segkit.data.stacks import Stack
from segkit.data.transforms import Augmentation, AugmentSpec
from segkit.errors import DataWarning, InputError

_LOG = logging.getLogger(__name__)
Side = Literal["train", "val"]


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """How the data set is read; see `find_cases`. `labels` may have text keys, as in JSON."""

    layout: str = "auto"
    group_by: str | None = None
    label_folder: str | None = None
    labels: Mapping[int, str] | Mapping[str, str] | None = None
    allow_unpaired: bool = False
    keep_unlabelled: bool = False

    def find(self, root: str | Path) -> Dataset:
        """List the cases."""
        labels = None if self.labels is None else {int(k): v for k, v in self.labels.items()}
        return find_cases(
            root,
            self.layout,
            group_by=self.group_by,
            label_folder=self.label_folder,
            labels=labels,
            allow_unpaired=self.allow_unpaired,
            keep_unlabelled=self.keep_unlabelled,
        )


@dataclass(frozen=True, slots=True)
class SampleSpec:
    """What becomes a sample.

    `empty` is the rule for training slices without a label: "keep", "drop", or the share of them
    to keep. Validation always counts all slices of all cases. With `instances` the masks hold
    object ids. `channel` picks one image by number or name where a case has several. `limit` keeps
    that many cases on each side, for a quick look. `label_options` and `read_options` are those of
    `read_labels` and `load`: `LabelOptions(mapping={3: 2})` merges two labels, for example.
    """

    empty: Empty = "keep"
    instances: bool = False
    channel: int | str | None = None
    limit: int | None = None
    label_options: LabelOptions = field(default_factory=LabelOptions)
    read_options: ReadOptions = field(default_factory=ReadOptions)

    def __post_init__(self) -> None:
        check_empty(self.empty)
        if self.limit is not None and self.limit < 1:
            raise InputError(f"limit must be >= 1, got {self.limit}", fix="leave it out for all")

    @property
    def labels_as_read(self) -> LabelOptions:
        """The options of labels with `instances` taken in."""
        return replace(self.label_options, instances=self.instances or self.label_options.instances)


class Reading(TypedDict, total=False):
    """Arguments that every data module hands on to `SliceDataModule`."""

    source: SourceSpec | None
    split: SplitSpec | None
    samples: SampleSpec | None
    loader: LoaderSpec | None
    cache_dir: str | Path | None


class SliceDataModule:
    """Slices of the training and validation cases of a data set.

    Cases are prepared once and kept on disk (`cache_dir`; default in `default_cache_dir`). The
    order of an epoch and every random change follow from the seed of `loader`, the epoch and the
    number of batches consumed, so a run can be resumed in the middle of an epoch. There is no way
    from here to batches of the test cases; `cases("test")` only lists them for an evaluation.
    `augment` None leaves training slices unchanged.

    Example:
        >>> data = SliceDataModule("Task09_Spleen", model_input=InputSpec())  # doctest: +SKIP
        >>> for batch in data.train_loader(epoch=0):  # doctest: +SKIP
        ...     print(batch.image.shape, batch.mask.shape)
    """

    def __init__(
        self,
        root: str | Path,
        *,
        model_input: InputSpec,
        source: SourceSpec | None = None,
        split: SplitSpec | None = None,
        samples: SampleSpec | None = None,
        loader: LoaderSpec | None = None,
        augment: AugmentSpec | None = None,
        cache_dir: str | Path | None = None,
    ) -> None:
        self.samples, self.loader = samples or SampleSpec(), loader or LoaderSpec()
        self.augment, self.model_input = augment, model_input
        source = source or SourceSpec()
        self.dataset = source.find(root)
        self._splits = self._limited(split_cases(self.dataset, split or SplitSpec()))
        self._skips = Skips(self.loader)
        recipe = Recipe(
            model_input,
            labels=tuple(self.dataset.labels.items()),
            channel=_channel(self.dataset, self.samples.channel),
            label_options=self.samples.labels_as_read,
            read_options=self.samples.read_options,
            keep_unlabelled=source.keep_unlabelled,
        )
        self._cache = StackCache(cache_dir, recipe)

    @property
    def labels(self) -> dict[int, str]:
        """Names by class index, without background."""
        return dict(self.dataset.labels)

    @property
    def skipped(self) -> tuple[str, ...]:
        """Cases left out because they could not be read."""
        return tuple(sorted(self._skips.names))

    def cases(self, split: Literal["train", "val", "test"]) -> tuple[Case, ...]:
        """Cases of a split, whether or not they can be read."""
        if split == "test":
            return self.dataset.cases.get("test", ())
        return self._side(split)

    @property
    def fingerprint(self) -> str:
        """One hash of the contents, ids (hashed) and sides of all cases used; no names in it."""
        lines = []
        for side in ("train", "val"):
            for case in self._side(side):
                digest = self._cache.digest(case)
                name = hashlib.sha256(case.id.encode()).hexdigest()
                lines.append(" ".join([side, name, *digest.image, digest.label]))
        self._cache.remember()
        return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()

    def prepare(self) -> None:
        """Read every case once, so that later errors are rare and the first epoch is fast.

        Warns:
            DataWarning: Training cases without any labelled voxel; cases that are left out.

        Raises:
            InputError: A case cannot be read and the policy or the limit says stop.
            WorkerError: A worker died or hung.
        """
        counts = len(self.train_samples), len(self.val_samples)
        _LOG.info("%d training and %d validation slices", *counts)

    @cached_property
    def train_samples(self) -> SliceSamples:
        """Training slices that the rule for empty slices leaves."""
        cases, stacks = self._opened("train")
        warn_of_bare(cases, stacks)
        counts = [stack.foreground for stack in stacks]
        table = slice_table(counts, self.samples.empty, seed=self.loader.seed)
        if not len(table):
            raise InputError(
                f"no training slice is left with empty={self.samples.empty!r}",
                path=self.dataset.root,
                fix="check the labels, or keep empty slices",
                code="empty_split",
                option="empty",
            )
        augmentation = None
        if self.augment is not None:
            is_colour = self.model_input.channels == "rgb"
            augmentation = Augmentation(self.augment, self.model_input.size, is_colour=is_colour)
        return SliceSamples(
            cases, stacks, table, self._cache, augmentation=augmentation, seed=self.loader.seed
        )

    @cached_property
    def val_samples(self) -> SliceSamples:
        """All slices of all validation cases."""
        cases, stacks = self._opened("val")
        table = slice_table([stack.foreground for stack in stacks])
        return SliceSamples(cases, stacks, table, self._cache)

    def train_loader(
        self, epoch: int, *, start: int = 0, rank: int = 0, ranks: int = 1
    ) -> GuardedLoader[ImageBatch]:
        """Batches of one epoch after the first `start`, for process `rank` of `ranks`."""
        samples = self.train_samples
        first = start * self.loader.batch_size
        sampler = EpochSampler(len(samples), self.loader.seed, epoch, first, rank=rank, ranks=ranks)
        return GuardedLoader(
            samples.load, sampler, collate, self.loader, name=samples.name, skips=self._skips
        )

    def val_loader(self, *, rank: int = 0, ranks: int = 1) -> GuardedLoader[ImageBatch]:
        """Validation batches in order; with several processes each takes every `ranks`-th slice."""
        samples = self.val_samples
        order = range(rank, len(samples), ranks)
        return GuardedLoader(
            samples.load, order, collate, self.loader, name=samples.name, skips=self._skips
        )

    def _side(self, side: Side) -> tuple[Case, ...]:
        return self._splits.train if side == "train" else self._splits.val

    def _limited(self, splits: Splits) -> Splits:
        return Splits(splits.train[: self.samples.limit], splits.val[: self.samples.limit])

    def _opened(self, side: Side) -> tuple[list[Case], list[Stack]]:
        """Cases of a side that can be read, with their prepared slices."""
        cases = self._hashed(side)
        opener = _Opener(self._cache, cases)
        one_by_one = replace(self.loader, batch_size=1)
        loader = GuardedLoader(
            opener.open, range(len(cases)), _whole, one_by_one, name=opener.name, skips=self._skips
        )
        stacks = dict(pair for batch in loader for pair in batch)
        if not stacks:
            raise InputError(
                f"no case of the {side} side can be read",
                path=self.dataset.root,
                fix="see the warnings before this message",
                code="empty_split",
            )
        chosen = sorted(stacks)
        return [cases[index] for index in chosen], [stacks[index] for index in chosen]

    def _hashed(self, side: Side) -> list[Case]:
        """Cases whose files can be read; hashed here, so that no worker does it again."""
        readable = []
        for case in self._side(side):
            try:
                self._cache.digest(case)
            except InputError as error:
                self._skips.count(Fault(case.id, error))
            else:
                readable.append(case)
        self._cache.remember()
        return readable


def warn_of_bare(cases: Sequence[Case], stacks: Sequence[Stack]) -> None:
    """Warn of labels without a labelled voxel."""
    pairs = zip(cases, stacks, strict=True)
    bare = [case.id for case, stack in pairs if case.label and not stack.foreground.any()]
    if bare:
        warnings.warn(
            f"{len(bare)} of {len(cases)} training cases have no labelled voxel "
            f"({shorten(bare)}); check that their labels are complete",
            DataWarning,
            stacklevel=4,
        )


class _Opener:
    """Prepares the case of an index; no closure, so that it travels to workers."""

    def __init__(self, cache: StackCache, cases: Sequence[Case]) -> None:
        self.cache, self.cases = cache, cases

    def open(self, index: int) -> tuple[int, Stack]:
        return index, self.cache.get(self.cases[index])

    def name(self, index: int) -> str:
        return self.cases[index].id


def _whole(items: list[tuple[int, Stack]]) -> list[tuple[int, Stack]]:
    return items


def _channel(dataset: Dataset, wanted: int | str | None) -> int | None:
    """Number of the image to use; cases with several images need a choice."""
    names = dataset.channels
    if wanted is None and len(names) < 2:
        return None
    numbers = {name: index for index, name in enumerate(names)}
    number = numbers.get(wanted) if isinstance(wanted, str) else wanted
    if number is None or not 0 <= number < len(names):
        raise InputError(
            f"each case has {len(names)} images ({', '.join(names)}), got channel={wanted!r}",
            path=dataset.root,
            fix="choose one by number (from 0) or name with channel=...",
            code="channel",
            option="channel",
        )
    return number if len(names) > 1 else None
