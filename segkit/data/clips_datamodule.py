"""Training and validation batches of clips from a data set on disk."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from typing_extensions import override

from segkit.data.batches import Sample
from segkit.data.clips import Clip, ClipBatch, collate_clips
from segkit.data.clips_sequences import ClipSpec, FrameSequence, draw_window, find_sequences
from segkit.data.datamodule import Reading, SliceDataModule
from segkit.data.loading import GuardedLoader, LoaderSpec
from segkit.data.preprocess import InputSpec
from segkit.data.samples import SliceSamples
from segkit.data.sampling import Draw, EpochSampler, derive_seed
from segkit.data.transforms import AugmentSpec
from segkit.errors import InputError


class ClipSamples:
    """Clips read frame by frame from `slices`, which holds every slice of every case in order.

    A plain index gives the clip from the first frame with an object on; a `Draw` gives a window of
    it that begins on a frame with an object, its frames changed alike, decided by (seed, epoch,
    index) and by nothing else.
    """

    def __init__(
        self, slices: SliceSamples, sequences: Sequence[FrameSequence], spec: ClipSpec, *, seed: int
    ) -> None:
        self.slices, self.sequences, self.spec, self._seed = slices, tuple(sequences), spec, seed
        self._position = {(int(c), int(s)): i for i, (c, s) in enumerate(slices.table)}

    def __len__(self) -> int:
        return len(self.sequences)

    def name(self, index: int) -> str:
        """Name of a clip."""
        return self.sequences[index % len(self)].name

    def starts(self, index: int) -> list[int]:
        """Frames of a clip on which an object can be prompted."""
        frames = self.sequences[index].frames
        return [
            i for i, (case, number) in enumerate(frames) if self.slices.foreground(case, number)
        ]

    def is_usable(self, index: int) -> bool:
        """Whether an object can be prompted on a frame that another one follows."""
        starts = self.starts(index)
        return bool(starts) and starts[0] < len(self.sequences[index]) - 1

    def load(self, key: Draw | int) -> Clip:
        """Read one clip.

        Raises:
            InputError: The cache is damaged and a case cannot be read again.
        """
        # an epoch goes through the clips once per window
        index = key.index % len(self) if isinstance(key, Draw) else key
        sequence = self.sequences[index]
        if not isinstance(key, Draw):
            return self._clip(sequence, range(self.starts(index)[0], len(sequence)), None)
        seed = derive_seed(self._seed, key.epoch, key.index)
        rng = np.random.default_rng(seed)
        window = draw_window(len(sequence), self.starts(index), self.spec, rng)
        return self._clip(sequence, window, seed)

    def _clip(self, sequence: FrameSequence, chosen: Sequence[int], seed: int | None) -> Clip:
        places = [sequence.frames[i] for i in chosen]
        frames = {place: self._frame(place, seed) for place in dict.fromkeys(places)}
        samples = [frames[place] for place in places]
        cases = [self.slices.cases[case] for case, _ in places]
        return Clip(
            torch.stack([sample.image for sample in samples]),
            torch.stack([sample.mask for sample in samples]),
            torch.tensor([case.label is not None for case in cases]),
            sequence.name,
            sequence.group,
            tuple(f"{s.case_id}:{s.slice_index}" for s in samples),
            samples[0].spacing_mm,
        )

    def _frame(self, place: tuple[int, int], seed: int | None) -> Sample:
        return self.slices.read(self._position[place], seed)


class ClipDataModule(SliceDataModule):
    """Clips of the training and validation cases of a data set.

    Reads and prepares what `SliceDataModule` reads; `clips` says which frames belong together.
    Training batches hold windows of one length, validation batches one whole clip each. Clips
    without an object on any frame are left out.

    Example:
        >>> spec = ClipSpec(frames=6, period=20, along=("time", "slices"))
        >>> flat = InputSpec(dimensions=2)
        >>> data = ClipDataModule("cine", model_input=flat, clips=spec)  # doctest: +SKIP
    """

    def __init__(
        self,
        root: str | Path,
        *,
        model_input: InputSpec,
        clips: ClipSpec | None = None,
        augment: AugmentSpec | None = None,
        **reading: Unpack[Reading],
    ) -> None:
        self.clips = clips or ClipSpec()
        super().__init__(root, model_input=model_input, augment=augment, **reading)

    @cached_property
    def train_clips(self) -> ClipSamples:
        """Training clips with an object."""
        return self._clips_of(self.train_samples, "train")

    @cached_property
    def val_clips(self) -> ClipSamples:
        """Validation clips with an object."""
        return self._clips_of(self.val_samples, "val")

    @override
    def train_loader(  # type: ignore[override]
        self, epoch: int, *, start: int = 0, rank: int = 0, ranks: int = 1
    ) -> GuardedLoader[ClipBatch]:
        clips, first = self.train_clips, start * self.loader.batch_size
        count = len(clips) * self.clips.windows
        sampler = EpochSampler(count, self.loader.seed, epoch, first, rank=rank, ranks=ranks)
        return self._loader(clips, sampler, self.loader)

    @override
    def val_loader(  # type: ignore[override]
        self, *, rank: int = 0, ranks: int = 1
    ) -> GuardedLoader[ClipBatch]:
        order = range(rank, len(self.val_clips), ranks)
        return self._loader(self.val_clips, order, replace(self.loader, batch_size=1))

    def _loader(self, clips: ClipSamples, order: Any, spec: LoaderSpec) -> GuardedLoader[ClipBatch]:
        return GuardedLoader(
            clips.load, order, collate_clips, spec, name=clips.name, skips=self._skips
        )

    def _clips_of(self, samples: SliceSamples, side: str) -> ClipSamples:
        counts = np.bincount(samples.table[:, 0], minlength=len(samples.cases)).tolist()
        found = find_sequences(samples.cases, counts, self.clips)
        clips = ClipSamples(samples, found, self.clips, seed=self.loader.seed)
        kept = [one for index, one in enumerate(found) if clips.is_usable(index)]
        if not kept:
            raise InputError(
                f"no clip of the {side} side shows an object",
                path=self.dataset.root,
                fix="check the labels",
                code="empty_split",
            )
        return ClipSamples(samples, kept, self.clips, seed=self.loader.seed)
