"""One case in memory, ready to be predicted and measured on its own grid."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Integer

from segkit.data.cases import Case
from segkit.data.datamodule import SampleSpec
from segkit.data.labels import ignored_value, read_labels
from segkit.data.readers import load
from segkit.data.volume import Picture, Volume
from segkit.errors import InputError

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """An image with its reference; `reference` lies on the grid of `source`.

    `instances` holds an id for every object where the data set tells objects of one class apart,
    `ignored` the voxels that count for nothing.
    """

    id: str
    group: str
    source: Volume | Picture
    reference: Integer[np.ndarray, "*shape"]
    instances: Integer[np.ndarray, "*shape"] | None = None
    ignored: Bool[np.ndarray, "*shape"] | None = None

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Distance of neighbouring voxels in array order, or 1 where it is unknown."""
        if isinstance(self.source, Picture):
            return self.source.spacing_mm or (1.0, 1.0)
        return self.source.geometry.spacing_mm if self.source.geometry.is_known else (1.0,) * 3

    @property
    def unit(self) -> str:
        """Unit of distances in this case: "mm", or "px" where the file knows no spacing."""
        if isinstance(self.source, Picture):
            return "px" if self.source.spacing_mm is None else "mm"
        return "mm" if self.source.geometry.is_known else "px"


@dataclass(frozen=True, slots=True, eq=False)
class SampleReader:
    """Read cases one at a time, under names that may be published.

    `labels` are the classes by voxel value; `channels` and `samples` say how files are read, as in
    training. With instances a label file holds ids of objects, all of class 1. With `is_hashed`,
    cases and subjects go by a hash of their name.
    """

    labels: Mapping[int, str]
    channels: Sequence[str] = ()
    samples: SampleSpec = field(default_factory=SampleSpec)
    is_hashed: bool = False

    def name(self, case: Case) -> str:
        """Name of a case in results; never a path."""
        return _hash(case.id) if self.is_hashed else case.id

    def read(self, case: Case) -> Sample:
        """Read image and reference of one case.

        Raises:
            InputError: A file cannot be used, or the reference does not fit the image.
        """
        source = self._image(case)
        if case.label is None:
            raise InputError(
                f"case {case.id!r} has no reference",
                path=case.image[0],
                fix="evaluation needs labels; `segkit predict` does not",
                code="no_label",
            )
        options = self.samples.labels_as_read
        table = None if options.instances else dict(self.labels)
        found = read_labels(case.label, source, table, options, self.samples.read_options)
        group = _hash(case.group) if self.is_hashed else case.group
        sample = Sample(self.name(case), group, source, found)
        if options.ignore is not None:
            ignored = found == ignored_value(found.dtype)
            found = np.where(ignored, 0, found).astype(found.dtype)
            sample = replace(sample, reference=found, ignored=ignored)
        if options.instances:
            sample = replace(sample, reference=(found > 0).astype(np.uint8), instances=found)
        return sample

    def all(self, cases: Sequence[Case], progress: Progress | None = None) -> Iterator[Sample]:
        """Read cases lazily; `progress` is called with the number done and of all."""
        for number, case in enumerate(cases):
            if progress is not None:
                progress(number, len(cases))
            yield self.read(case)
        if progress is not None:
            progress(len(cases), len(cases))

    def _image(self, case: Case) -> Volume | Picture:
        options, channel = self.samples.read_options, self._channel()
        if len(case.image) == 1:
            return load(case.image[0], options, frame=options.frame if channel is None else channel)
        if channel is None or not 0 <= channel < len(case.image):
            raise InputError(
                f"case {case.id!r} has {len(case.image)} images, got channel={channel}",
                path=case.image[0].parent,
                fix=f"choose one with channel=0 to {len(case.image) - 1}",
                code="channel",
                option="channel",
            )
        return load(case.image[channel], options)

    def _channel(self) -> int | None:
        """Number of the image to read, of one named in the data set too."""
        channel = self.samples.channel
        if len(self.channels) < 2:
            return None
        if not isinstance(channel, str):
            return channel
        if channel not in self.channels:
            raise InputError(
                f"the data set has no channel {channel!r}",
                fix=f"allowed: {list(self.channels)}, or a number",
                option="channel",
            )
        return list(self.channels).index(channel)


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:12]
