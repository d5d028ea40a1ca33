"""Several adapters on one frozen backbone: one encoder in memory, one embedding if they agree."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped
from torch import nn

from segkit.data.objects import Source
from segkit.data.preprocess import SliceView
from segkit.data.volume import Picture, Volume
from segkit.errors import InputError
from segkit.models.files import load_model
from segkit.models.info import ModelInfo
from segkit.models.segmenter import Segmenter
from segkit.models.zoo import ADAPTER_FILE
from segkit.predictors.base import Predictor
from segkit.predictors.slices import EncodedSlices

_BATCH = 4


class Shelf:
    """Models that stand on the same frozen weights, by name; `use` hands one out at once.

    All share one encoder, unless their adapter edits its weights (LoRA). Models without an adapter
    that read images alike also share the embeddings: `segment` encodes for all of them together.

    Example:
        >>> from segkit.models import build
        >>> one, two = (build.sam_tiny(classes=k, trainable="decoder") for k in (1, 2))
        >>> shelf = Shelf({"liver": Predictor(one), "vessels": Predictor(two)})
        >>> shelf.use("vessels").segmenter.decoder.classes
        2
    """

    def __init__(self, predictors: Mapping[str, Predictor]) -> None:
        if not predictors:
            raise InputError("a shelf needs at least one model")
        self.predictors = dict(predictors)
        _check_backbones(self.predictors)
        kept: list[Segmenter] = []
        for predictor in self.predictors.values():
            for other in kept:
                _share_encoder(predictor.segmenter, other)
            kept.append(predictor.segmenter)

    @classmethod
    def from_pretrained(
        cls,
        models: Sequence[str | Path] | Mapping[str, str | Path],
        *,
        checkpoint: str | Path | None = None,
        device: str = "auto",
    ) -> "Shelf":
        """Load run folders or adapter files; a list goes by the names of folders or files.

        Raises:
            CheckpointError: A file is damaged, or made for other weights than `checkpoint`.
            InputError: Two models have one name, or do not stand on the same backbone.
        """
        named = models if isinstance(models, Mapping) else _named(models)
        found: dict[str, Predictor] = {}
        for name, path in named.items():
            segmenter, info = load_model(path, checkpoint=checkpoint)
            found[name] = Predictor(segmenter, info, device=device)
        return cls(found)

    def use(self, name: str) -> Predictor:
        """The predictor of a model; nothing is loaded or copied.

        Raises:
            InputError: There is no such model.
        """
        if name not in self.predictors:
            raise InputError(f"there is no model {name!r}", fix=f"loaded: {list(self.predictors)}")
        return self.predictors[name]

    def segment(self, source: Source) -> dict[str, Shaped[np.ndarray, "..."]]:
        """Label maps of all models on the grid of the source, by name.

        Raises:
            InputError: A model needs prompts.
        """
        found: dict[str, Shaped[np.ndarray, ...]] = {}
        opened = next(iter(self.predictors.values())).read(source)
        for group in self._groups():
            if len(group) == 1 or self.predictors[group[0]].is_volumetric:
                found |= {name: self._alone(name, opened) for name in group}
            else:
                found |= self._together(group, opened)
        return {name: found[name] for name in self.predictors}

    def _groups(self) -> list[list[str]]:
        """Names of models that see the same embedding."""
        groups: dict[object, list[str]] = {}
        for name, predictor in self.predictors.items():
            key = _embedding(predictor.segmenter, predictor.info) or name
            groups.setdefault(key, []).append(name)
        return list(groups.values())

    def _alone(self, name: str, source: Volume | Picture) -> Shaped[np.ndarray, "..."]:
        try:
            return self.predictors[name].segment(source)
        except InputError as error:  # of several models, it must say which
            raise InputError(
                f"model {name!r}: {error.cause}",
                fix=error.fix,
                path=error.path,
                code=error.code,
                option=error.option,
            ) from error

    def _together(
        self, names: Sequence[str], source: Volume | Picture
    ) -> dict[str, Shaped[np.ndarray, "..."]]:
        """Encode every slice once and decode it with each model."""
        first = self.predictors[names[0]]
        if first.info is None:
            raise InputError("models without a description cannot be run together")
        view = SliceView(source, first.info.input)
        slices = EncodedSlices(first.segmenter, view)
        stacks = {name: np.empty(view.shape, dtype=np.uint8) for name in names}
        for start in range(0, view.shape[0], _BATCH):
            indices = range(start, min(start + _BATCH, view.shape[0]))
            features = slices.encode(indices)
            for name in names:
                with torch.inference_mode():
                    logits = self.predictors[name].segmenter.decode(features).logits
                for index, one in zip(indices, logits.float().cpu().numpy(), strict=True):
                    placed = view.logits_to_source([one], [index])[0]
                    scores = np.concatenate([np.zeros_like(placed[:1]), placed])
                    stacks[name][index] = scores.argmax(axis=0)
        return {name: view.restore(stack) for name, stack in stacks.items()}


def _named(models: Sequence[str | Path]) -> dict[str, str | Path]:
    names = [_name(Path(model)) for model in models]
    if twins := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"several models are called {twins[0]!r}", fix="rename a folder or file")
    return dict(zip(names, models, strict=True))


def _name(model: Path) -> str:
    """A run goes by its folder, also where its file is named."""
    return (
        model.resolve().parent.name
        if model.name == ADAPTER_FILE
        else model.name.removesuffix(".safetensors")
    )


def _check_backbones(predictors: Mapping[str, Predictor]) -> None:
    """Refuse models on different frozen weights, with both hashes."""
    (first, one), *others = predictors.items()
    for name, other in others:
        if other.sha256 != one.sha256 or not one.sha256:
            raise InputError(
                f"{first!r} stands on {one.segmenter.spec.name} with sha256 {one.sha256}, "
                f"{name!r} on {other.segmenter.spec.name} with sha256 {other.sha256}",
                fix="run models of different backbones one after the other",
                code="other_backbone",
            )


def _share_encoder(segmenter: Segmenter, first: Segmenter) -> None:
    """Drop a copy of the frozen encoder; one that was trained or edited stays."""
    mine, shared = segmenter.backbone, first.backbone
    is_frozen = not (mine.trainable or shared.trainable)
    if is_frozen and _layers(mine.encoder) == _layers(shared.encoder):
        mine.encoder = shared.encoder


def _layers(encoder: nn.Module) -> list[tuple[str, type]]:
    """What an encoder consists of; LoRA puts layers of its own in it."""
    return [(name, type(module)) for name, module in encoder.named_modules()]


def _embedding(segmenter: Segmenter, info: ModelInfo | None) -> object:
    """What decides the embedding of an image; None where that is the model's own affair."""
    recipe = segmenter.recipe
    is_plain = recipe is not None and recipe.adapter.target == "segkit.adapters.Adapter"
    if info is None or not is_plain or segmenter.backbone.trainable or not segmenter.is_automatic:
        return None
    return str(sorted(info.input.to_dict().items(), key=str))
