"""One clip in memory, ready to be followed and measured on the pixels of its frames."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped

from segkit.data.cases import Case
from segkit.data.clips_sequences import ClipSpec, FrameSequence, find_sequences
from segkit.data.preprocess import InputSpec, SliceView
from segkit.data.readers import load
from segkit.data.volume import Picture
from segkit.errors import InputError
from segkit.evaluation.samples import Progress, Sample, SampleReader

Masks = Integer[np.ndarray, "t rows cols"]


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """Frames of one clip, the first of them labelled and showing an object.

    `reference` holds classes in the frames' own pixels; `view` and `places` say how model inputs
    are made of them.
    """

    id: str
    group: str
    views: tuple[SliceView, ...]
    places: tuple[int, ...]
    reference: Masks
    is_labelled: Bool[np.ndarray, " t"]
    unit: str

    def __len__(self) -> int:
        return len(self.places)

    @property
    def spacing_mm(self) -> tuple[float, float]:
        """Distance of rows and of columns."""
        return self.views[0].spacing_mm[1:]

    def image(self, index: int) -> Float[np.ndarray, "3 size size"]:
        """Model input of a frame, in [0, 1]."""
        return self.views[index].image(self.places[index])

    def frame(self, index: int) -> Shaped[np.ndarray, "rows cols *colours"]:
        """A frame as it was read."""
        view = self.views[index]
        return view.stack(view.source.array)[self.places[index]]

    def to_frame(
        self, logits: Float[np.ndarray, "c h w"], index: int
    ) -> Float[np.ndarray, "c rows cols"]:
        """Logits at any resolution of the model input, in the pixels of a frame."""
        return self.views[index].logits_to_source([logits], [self.places[index]])[0]


@dataclass(frozen=True, slots=True, eq=False)
class RecordingReader:
    """Read clips one at a time; `spec` says which frames belong together."""

    reader: SampleReader
    model_input: InputSpec
    spec: ClipSpec

    def all(self, cases: Sequence[Case], progress: Progress | None = None) -> Iterator[Recording]:
        """Clips that show an object on a labelled frame which another labelled frame follows.

        A clip begins at the first such frame. Frames before it are left out.
        """
        sequences = self.sequences(cases)
        for number, sequence in enumerate(sequences):
            if progress is not None:
                progress(number, len(sequences))
            if (recording := self.read(cases, sequence)) is not None:
                yield recording
        if progress is not None:
            progress(len(sequences), len(sequences))

    def sequences(self, cases: Sequence[Case]) -> list[FrameSequence]:
        """Clips among cases; files are opened to count their slices."""
        counts = [self._view(self._sample(case)).shape[0] for case in cases]
        return find_sequences(cases, counts, self.spec)

    def read(self, cases: Sequence[Case], sequence: FrameSequence) -> Recording | None:
        """One clip, or None if nothing can be followed in it.

        Raises:
            InputError: A file cannot be used, or frames differ in size.
        """
        samples = {case: self._sample(cases[case]) for case in {c for c, _ in sequence.frames}}
        views = {case: self._view(sample) for case, sample in samples.items()}
        stacks = {case: views[case].stack(samples[case].reference) for case in samples}
        shapes = {stack.shape[1:] for stack in stacks.values()}
        if len(shapes) > 1:
            raise InputError(
                f"frames of clip {sequence.name!r} differ in size: {sorted(shapes)}",
                fix="bring all frames of a clip to one size",
                code="frame_size",
            )
        reference = np.stack([stacks[case][place] for case, place in sequence.frames])
        is_labelled = np.array([cases[case].label is not None for case, _ in sequence.frames])
        shown = np.flatnonzero(
            is_labelled & np.isin(reference, list(self.reader.labels)).any((1, 2))
        )
        if not len(shown) or not is_labelled[shown[0] + 1 :].any():
            return None
        kept = slice(int(shown[0]), None)
        first = samples[sequence.frames[0][0]]
        return Recording(
            sequence.name,
            first.group,
            tuple(views[case] for case, _ in sequence.frames)[kept],
            tuple(place for _, place in sequence.frames)[kept],
            reference[kept],
            is_labelled[kept],
            first.unit,
        )

    def _view(self, sample: Sample) -> SliceView:
        return SliceView(sample.source, self.model_input)

    def _sample(self, case: Case) -> Sample:
        """A frame; one without a label has an empty one."""
        if case.label is not None:
            return self.reader.read(case)
        source = load(case.image[0], self.reader.samples.read_options)
        size = source.size if isinstance(source, Picture) else source.array.shape
        return Sample(self.reader.name(case), case.group, source, np.zeros(size, np.uint8))
