"""Masks in two-dimensional images, with the calls that users of SAM know."""

import threading

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from typing_extensions import override

from segkit.data.objects import Source
from segkit.data.options import ReadOptions
from segkit.data.volume import Picture, Volume
from segkit.errors import InputError
from segkit.models.info import ModelInfo
from segkit.models.segmenter import Segmenter
from segkit.predictors.base import CACHE_BYTES, Device, Predictor
from segkit.predictors.slices import EncodedSlices
from segkit.typing import BOX_FIRST, BOX_LAST, Prompts


class ImagePredictor(Predictor):
    """Segment pictures: `open` gives a session with coordinates (row, column).

    `set_image` and `predict` are the calls of the official `SamPredictor`: coordinates (x, y) in
    pixels of the image, boxes XYXY. The image they hold belongs to the calling thread.

    Example:
        >>> from segkit.models import build
        >>> predictor = ImagePredictor(build.sam_tiny(), device="cpu")
        >>> predictor.set_image(np.zeros((48, 64, 3), dtype=np.uint8))
        >>> masks, iou, low_res = predictor.predict(np.array([[30, 20]]), np.array([1]))
        >>> masks.shape
        (3, 48, 64)
    """

    def __init__(
        self,
        segmenter: Segmenter,
        info: ModelInfo | None = None,
        *,
        device: Device = "auto",
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        super().__init__(segmenter, info, device=device, cache_bytes=cache_bytes)
        self._thread = threading.local()

    @override
    def read(self, source: Source, options: ReadOptions | None = None) -> Picture:
        opened = super().read(source, options)
        if isinstance(opened, Volume):
            if opened.array.shape[0] != 1:
                raise InputError(
                    f"got a volume of shape {opened.array.shape}, a picture is needed",
                    fix="use VolumePredictor",
                    path=opened.path,
                )
            opened = Picture(opened.array[0], opened.path, opened.geometry.spacing_mm[1:])
        return opened

    def set_image(self, image: Shaped[np.ndarray, "h w 3"] | Source) -> None:
        """Encode an image, RGB if it is an array with three channels."""
        slices = self.slices(self.read(image))
        slices.features(0)
        self._thread.slices = slices

    def reset_image(self) -> None:
        """Forget the image of this thread."""
        self._thread.slices = None

    def get_image_embedding(self) -> Float[torch.Tensor, "1 c h w"]:
        """Coarsest embedding of the image."""
        return self._current().features(0).levels[-1]

    def predict(
        self,
        point_coords: Float[np.ndarray, "points 2"] | None = None,
        point_labels: Int[np.ndarray, " points"] | None = None,
        box: Float[np.ndarray, "4"] | None = None,
        mask_input: Float[np.ndarray, "1 rows cols"] | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[
        Shaped[np.ndarray, "masks h w"],
        Float[np.ndarray, " masks"],
        Float[np.ndarray, "masks rows cols"],
    ]:
        """Masks, their predicted IoU and low-resolution logits, as in the official `SamPredictor`.

        `point_coords` are (x, y) pixels, `point_labels` 1 or 0, `box` XYXY; `mask_input` are
        low-resolution logits of an earlier call.

        Raises:
            InputError: No image set, or prompts that do not fit it.
        """
        slices = self._current()
        prompts = self._prompts(slices, point_coords, point_labels, box, mask_input)
        prediction = slices.decode(0, prompts, multimask=multimask_output)
        low = prediction.logits[0].float().cpu().numpy()
        logits = slices.view.logits_to_source([low], [0])[0]
        masks = logits if return_logits else logits > 0
        return masks, prediction.iou[0].float().cpu().numpy(), low

    def _current(self) -> EncodedSlices:
        if (slices := getattr(self._thread, "slices", None)) is None:
            raise InputError("no image is set in this thread", fix="call set_image(image) first")
        return slices

    def _prompts(
        self,
        slices: EncodedSlices,
        coords: Float[np.ndarray, "points 2"] | None,
        labels: Int[np.ndarray, " points"] | None,
        box: Float[np.ndarray, "4"] | None,
        mask: Float[np.ndarray, "1 rows cols"] | None,
    ) -> Prompts:
        if (coords is None) != (labels is None):
            raise InputError("point_coords and point_labels belong together", fix="give both")
        xy = np.zeros((0, 2)) if coords is None else np.asarray(coords, dtype=float).reshape(-1, 2)
        kinds = [] if labels is None else np.asarray(labels).reshape(-1).tolist()
        if len(kinds) != len(xy) or set(kinds) - {0, 1}:
            raise InputError(
                f"got {len(xy)} points with labels {kinds}", fix="one label, 1 or 0, per point"
            )
        if box is not None:
            xy = np.concatenate([xy, np.asarray(box, dtype=float).reshape(2, 2)])
            kinds += [BOX_FIRST, BOX_LAST]
        if not np.isfinite(xy).all():
            raise InputError("coordinates must be finite", fix="check the prompt")
        points = slices.view.points_to_model(xy[:, ::-1])
        points[:, 0] = 0
        return Prompts(
            torch.tensor(points, dtype=torch.float32)[None],
            torch.tensor(kinds, dtype=torch.long)[None],
            None if mask is None else torch.as_tensor(mask, dtype=torch.float32)[None],
        )
