"""What every predictor is: a model that serves many images."""

from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from jaxtyping import Shaped

from segkit.data.objects import Source, as_source
from segkit.data.options import ReadOptions
from segkit.data.preprocess import InputSpec, Intensity, SliceView
from segkit.data.volume import Picture, Volume
from segkit.data.writers import save
from segkit.errors import InputError
from segkit.models.build import BUILDERS
from segkit.models.files import load_model
from segkit.models.info import ModelInfo
from segkit.models.segmenter import Segmenter
from segkit.predictors.session import Session
from segkit.predictors.slices import EncodedSlices

Device = Literal["auto"] | str
CACHE_BYTES = 256 * 2**20


class Predictor:
    """A model and no image: one predictor serves many sessions, from several threads.

    `cache_bytes` bounds the embeddings kept per session.

    Example:
        >>> from segkit.models import build
        >>> predictor = Predictor(build.sam_tiny(checkpoint="random"))
        >>> session = predictor.open(np.zeros((48, 64), dtype=np.uint8))
        >>> session.add_points([(20, 30)], labels=[1]).mask().shape
        (48, 64)
    """

    def __init__(
        self,
        segmenter: Segmenter,
        info: ModelInfo | None = None,
        *,
        device: Device = "auto",
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.device = choose_device(device)
        self.segmenter = segmenter.eval().to(self.device)
        self.info, self.cache_bytes = info, cache_bytes

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        checkpoint: str | Path | None = None,
        device: Device = "auto",
    ) -> Self:
        """Load a run folder, an `adapter.safetensors` or a model known by name, e.g. "nano".

        `checkpoint` is the weight file of a backbone that does not ship with the package.

        Raises:
            CheckpointError: The file is damaged, or made for another backbone.
        """
        segmenter, info = load_model(model, checkpoint=checkpoint)
        # a bare model has seen no data set: how to read an image depends on the image
        return cls(segmenter, None if str(model) in BUILDERS else info, device=device)

    @property
    def sha256(self) -> str:
        """Hash of the backbone's weights; empty for a model put together by hand."""
        recipe = self.segmenter.recipe
        return "" if recipe is None else recipe.backbone.sha256

    @property
    def labels(self) -> dict[int, str]:
        """Names of the classes by value; empty for a promptable model without classes."""
        return {} if self.info is None else dict(self.info.labels)

    def open(self, source: Source, options: ReadOptions | None = None) -> Session:
        """Start a session on an image or a volume; `options` go to `segkit.load`.

        Raises:
            InputError: The source cannot be read as it is, or the model takes no prompts.
        """
        if self.segmenter.is_automatic:
            raise InputError(
                "this model segments its classes without prompts",
                fix="use segment(source); clicks need a model trained in interactive mode",
            )
        opened = self.read(source, options)
        name = next(iter(self.labels.values()), "object")
        return Session(self._slices(opened), opened, name)

    def segment(
        self, source: Source, options: ReadOptions | None = None
    ) -> Shaped[np.ndarray, "..."]:
        """Label map on the grid of the source (automatic mode); 0 is background, type uint8.

        Memory beyond the weights holds a few slices and the label map, whatever the size.

        Raises:
            InputError: The model needs prompts.
        """
        if not self.segmenter.is_automatic:
            raise InputError(
                "this model needs prompts", fix="use open(source) and add points or a box"
            )
        slices = self._slices(self.read(source, options))
        stack = np.empty(slices.view.shape, dtype=np.uint8)
        for index, logits in slices.classes():
            background = np.zeros_like(logits[:1])
            stack[index] = np.concatenate([background, logits]).argmax(axis=0)
        return slices.view.restore(stack)

    def read(self, source: Source, options: ReadOptions | None = None) -> Volume | Picture:
        """Bring a source into memory and check that it suits the predictor."""
        return as_source(source, options)

    def save(
        self, path: str | Path, labels: Shaped[np.ndarray, "..."], like: Volume | Picture
    ) -> Path:
        """Write a label map of `segment` on the grid it belongs to, with the names of the model."""
        save(path, labels, like, labels=self.labels)
        return Path(path)

    def _slices(self, source: Volume | Picture) -> EncodedSlices:
        spec = self._input_spec(source)
        return EncodedSlices(self.segmenter, SliceView(source, spec), cache_bytes=self.cache_bytes)

    def _input_spec(self, source: Volume | Picture) -> InputSpec:
        if self.info is not None:
            return self.info.input
        return default_input(source, self.segmenter.spec.image_size)


def default_input(source: Volume | Picture, size: int) -> InputSpec:
    """Input of a model that was not adapted: the plainest reading of the image."""
    is_byte = source.array.dtype == np.uint8
    intensity = Intensity("full") if is_byte else Intensity("percentile")
    if isinstance(source, Picture):
        is_colour = source.array.ndim == 3
        return InputSpec(2, size, "rgb" if is_colour else "repeat", intensity)
    return InputSpec(3, size, "repeat", intensity)


def choose_device(device: Device) -> torch.device:
    """Resolve "auto" to the best device here; check any other.

    Raises:
        InputError: The device is not available.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device {device!r} is not available", fix="allowed: 'auto', 'cpu', 'cuda', 'mps'"
        ) from error
    return torch.device(device)
