"""What every predictor is: a model that serves many images."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from jaxtyping import Shaped

from segkit.data.block_view import BlockView
from segkit.data.objects import Source, as_source
from segkit.data.options import ReadOptions
from segkit.data.preprocess import InputSpec, Intensity, SliceView
from segkit.data.volume import Picture, Volume
from segkit.data.writers import save
from segkit.data.zoom import Zoom
from segkit.errors import InputError
from segkit.models.build import BUILDERS
from segkit.models.files import load_model
from segkit.models.info import ModelInfo
from segkit.models.segmenter import Segmenter
from segkit.predictors.automatic import Look, label_blocks, label_slices
from segkit.predictors.block_engine import BlockEngine
from segkit.predictors.blocks import EncodedBlocks
from segkit.predictors.engine import Engine
from segkit.predictors.session import Session
from segkit.predictors.slice_engine import SliceEngine
from segkit.predictors.slices import EncodedSlices
from segkit.predictors.watch import Cancel, Progress, Watch

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
        encoder: str | Path | None = None,
    ) -> Self:
        """Load a run folder, an `adapter.safetensors` or a model known by name, e.g. "nano".

        `checkpoint` is the weight file of a backbone that does not ship with the package.
        `encoder`, on a CPU, is an exported encoder to use instead of the model's own: "int8",
        "float32" or a file (`segkit.predictors.exported`).

        Raises:
            CheckpointError: The file is damaged, or made for another backbone.
            InputError: The exported encoder does not agree with the model's own.
        """
        loaded, described = load_model(model, checkpoint=checkpoint)
        # a bare model has seen no data set: how to read an image depends on the image
        info = None if str(model) in BUILDERS else described
        if encoder is not None:
            device = use_exported(loaded, info, encoder, device)
        return cls(loaded, info, device=device)

    @property
    def sha256(self) -> str:
        """Hash of the backbone's weights; empty for a model put together by hand."""
        recipe = self.segmenter.recipe
        return "" if recipe is None else recipe.backbone.sha256

    @property
    def labels(self) -> dict[int, str]:
        """Names of the classes by value; empty for a promptable model without classes."""
        return {} if self.info is None else dict(self.info.labels)

    def open(
        self,
        source: Source,
        options: ReadOptions | None = None,
        *,
        axis: int | None = None,
        zoom: float | None = None,
    ) -> Session:
        """Start a session on an image or a volume; `options` go to `segkit.load`.

        `axis` (0 k, 1 j, 2 i of the array) chooses the slices that a model of slices sees; None
        leaves the choice to the model. With `zoom` the model sees each object in a window so many
        times as wide as its box (`segkit.data.zoom`), which small objects need; None leaves that to
        the model, too.

        Raises:
            InputError: The source cannot be read as it is, the model takes no prompts, there is no
                such axis, or the model sees blocks and has windows of its own.
        """
        if self.segmenter.is_automatic:
            raise InputError(
                "this model segments its classes without prompts",
                fix="leave prompts and words out (in Python: segment(source)); they need a model "
                "trained in interactive mode",
            )
        opened = self.read(source, options)
        engine: Engine[Any]
        if self.is_volumetric:
            if zoom is not None:
                raise InputError(
                    f"got zoom={zoom}, but this model sees blocks of a volume, which it widens "
                    "by itself",
                    fix="leave zoom out",
                )
            engine = BlockEngine(self.blocks(opened))
        else:
            engine = SliceEngine(self.slices(opened, axis, zoom))
        return Session(engine, next(iter(self.labels.values()), "object"))

    def segment(
        self,
        source: Source,
        options: ReadOptions | None = None,
        *,
        overlap: float = 0.5,
        mirror: bool = False,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
        look: Look | None = None,
    ) -> Shaped[np.ndarray, "..."]:
        """Label map on the grid of the source (automatic mode); 0 is background, type uint8.

        Memory beyond the weights holds a few slices, or a slab of blocks, and the label map.
        Blocks of models that see three dimensions overlap by a share `overlap` of their sides.
        `mirror` averages over all flips, at 4 (slices) or 8 (blocks) times the cost. `look` is
        shown the probabilities of every slice; models of blocks show nothing.

        Raises:
            InputError: The model needs prompts, or `overlap` is not in [0, 1).
            CancelledError: `cancel` returned true.
        """
        if not self.segmenter.is_automatic:
            raise InputError(
                "this model needs prompts", fix="use open(source) and add points or a box"
            )
        if not 0 <= overlap < 1:
            raise InputError(f"overlap must be in [0, 1), got {overlap}", fix="0.5 is usual")
        watch = Watch(progress, cancel)
        opened = self.read(source, options)
        if self.is_volumetric:
            return label_blocks(self.blocks(opened), overlap=overlap, mirror=mirror, watch=watch)
        return label_slices(self.slices(opened), mirror=mirror, watch=watch, look=look)

    @property
    def is_volumetric(self) -> bool:
        """Whether the model sees blocks of a volume instead of slices."""
        return self.segmenter.spec.dimensions == 3

    def read(self, source: Source, options: ReadOptions | None = None) -> Volume | Picture:
        """Bring a source into memory and check that it suits the predictor."""
        return as_source(source, options)

    def save(
        self, path: str | Path, labels: Shaped[np.ndarray, "..."], like: Volume | Picture
    ) -> Path:
        """Write a label map of `segment` on the grid it belongs to, with the names of the model."""
        save(path, labels, like, labels=self.labels)
        return Path(path)

    def slices(
        self, source: Volume | Picture, axis: int | None = None, zoom: float | None = None
    ) -> EncodedSlices:
        """The slices of an image as the model sees them, not encoded yet."""
        spec = _along(self._input_spec(source), source, axis)
        if zoom is not None:
            size = spec.size if spec.zoom is None else spec.zoom.size
            spec = replace(spec, zoom=Zoom(zoom, size))
        return EncodedSlices(self.segmenter, SliceView(source, spec), cache_bytes=self.cache_bytes)

    def blocks(self, source: Volume | Picture) -> EncodedBlocks:
        """The blocks of a volume as the model sees them, not encoded yet.

        Raises:
            InputError: The source is a picture.
        """
        if isinstance(source, Picture):
            raise InputError(
                f"got a picture of size {source.size}, this model sees blocks of a volume",
                fix="use a model of slices, or give a volume",
                path=source.path,
            )
        spec = self._input_spec(source)
        side = self.segmenter.spec.image_size
        return EncodedBlocks(
            self.segmenter,
            BlockView(source, spec),
            spec.patch or (side, side, side),
            cache_bytes=self.cache_bytes,
        )

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


def _along(spec: InputSpec, source: Volume | Picture, axis: int | None) -> InputSpec:
    """Choose the slice axis by an axis of the array of the source."""
    if axis is None:
        return spec
    if isinstance(source, Picture) or axis not in (0, 1, 2):
        size = source.size if isinstance(source, Picture) else source.array.shape
        raise InputError(
            f"there is no slice axis {axis} in an image of size {size}",
            fix="axes of a volume: 0 (k), 1 (j), 2 (i); pictures have none",
            code="prompt_slice",
        )
    change, _ = source.geometry.reoriented(spec.orientation)
    return replace(spec, slice_axis=change.axes.index(axis))


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


def use_exported(
    segmenter: Segmenter, info: ModelInfo | None, encoder: str | Path, device: Device
) -> Device:
    """Replace the encoder of a model by an exported one and return the device it runs on.

    Raises:
        InputError: Another device than the CPU was asked for.
    """
    if device not in ("auto", "cpu"):
        raise InputError(
            f"an exported encoder runs on the CPU, got device {device!r}",
            fix="leave encoder out on a GPU",
        )
    from segkit.predictors.exported import use_encoder  # its packages are slow to import

    use_encoder(segmenter, info, encoder)
    return "cpu"


def encoder_report(segmenter: Segmenter) -> dict[str, object]:
    """What a report says of an exported encoder; nothing of a model's own."""
    record = getattr(segmenter.backbone, "record", None)
    return {} if record is None else {"encoder": record.to_dict()}
