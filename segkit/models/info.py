"""The JSON document in the header of `adapter.safetensors`."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

from segkit.data.preprocess import InputSpec
from segkit.errors import CheckpointError, InputError
from segkit.models.recipe import TRAINABLE, BackboneOrigin, Part, Recipe
from segkit.models.segmenter import Segmenter
from segkit.version import VERSION

FORMAT = 1
MAX_LABEL = 255
_KEYS = {
    "format", "backbone", "adapter", "decoder", "prompt", "trainable", "labels", "input",
    "metrics", "licence", "created", "segkit_version",
}  # fmt: skip


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a file of trained weights says about itself.

    `labels` names the classes by mask value, 1 to 255, as masks have 8 bits. `created` is an ISO
    8601 time in UTC.
    """

    recipe: Recipe
    labels: Mapping[int, str]
    input: InputSpec
    metrics: Mapping[str, object] = field(default_factory=dict)
    licence: str = ""
    created: str = field(default_factory=_now)
    segkit_version: str = VERSION

    def __post_init__(self) -> None:
        wrong = [one for one in self.labels if type(one) is not int or not 1 <= one <= MAX_LABEL]
        if wrong:
            raise InputError(f"labels must be named by mask values 1 to {MAX_LABEL}, got {wrong}")

    @classmethod
    def of(
        cls,
        segmenter: Segmenter,
        *,
        labels: Mapping[int, str] | None = None,
        input: InputSpec | None = None,  # noqa: A002 (the word of the file format)
        metrics: Mapping[str, object] | None = None,
        licence: str = "",
    ) -> Self:
        """Describe a model that a builder made.

        Raises:
            InputError: The model was put together by hand, so nothing says how to do it again.
        """
        if segmenter.recipe is None:
            raise InputError(
                "this segmenter was put together by hand and cannot be described in a file",
                fix="use a builder of segkit.build, or pass Segmenter(..., recipe=...)",
            )
        size = segmenter.spec.image_size
        return cls(
            segmenter.recipe, labels or {}, input or InputSpec(size=size), metrics or {}, licence
        )

    def to_json(self) -> str:
        """Write the document."""
        recipe = self.recipe
        return json.dumps(
            {
                "format": FORMAT,
                "backbone": _origin(recipe.backbone),
                "adapter": recipe.adapter.to_dict(),
                "decoder": recipe.decoder.to_dict(),
                "prompt": recipe.prompt.to_dict(),
                "trainable": recipe.trainable,
                "labels": {str(value): name for value, name in self.labels.items()},
                "input": self.input.to_dict(),
                "metrics": dict(self.metrics),
                "licence": self.licence,
                "created": self.created,
                "segkit_version": self.segkit_version,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read and check the document.

        Raises:
            CheckpointError: It is no JSON, of a newer format, lacks or adds a key, or names a class
                that is not part of segkit.
        """
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"the header entry 'segkit' is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise CheckpointError(f"the header entry 'segkit' must be an object, got {value!r}")
        _check_format(value)
        if value.keys() != _KEYS:
            raise CheckpointError(
                f"the header entry 'segkit' lacks {sorted(_KEYS - value.keys())} and has unknown "
                f"{sorted(value.keys() - _KEYS)}"
            )
        try:
            return cls(
                _recipe(value),
                _labels(value["labels"]),
                InputSpec.from_dict(value["input"]),
                _object(value, "metrics"),
                *(_text(value, name) for name in ("licence", "created", "segkit_version")),
            )
        except CheckpointError:
            raise
        except (InputError, TypeError, AttributeError) as error:
            raise CheckpointError(f"the header entry 'segkit' is wrong: {error}") from error


def _check_format(value: Mapping[str, Any]) -> None:
    found = value.get("format")
    if type(found) is not int or found < 1:
        raise CheckpointError(f"format must be a whole number >= 1, got {found!r}")
    if found > FORMAT:
        raise CheckpointError(
            f"file format {found} is newer than {FORMAT}, which this segkit {VERSION} reads",
            fix=f"upgrade: it needs segkit >= {value.get('segkit_version', 'unknown')}",
            code="newer_format",
        )


def _origin(backbone: BackboneOrigin) -> dict[str, object]:
    """Options are written only where there are any: most models have none."""
    return {name: value for name, value in asdict(backbone).items() if value or name != "options"}


def _recipe(value: Mapping[str, Any]) -> Recipe:
    backbone = value["backbone"]
    names = set(BackboneOrigin.__slots__) - {"options"}
    if not isinstance(backbone, dict) or backbone.keys() - {"options"} != names:
        raise CheckpointError(f"backbone must have exactly the keys {sorted(names)}: {backbone!r}")
    if type(backbone["image_size"]) is not int:
        raise CheckpointError(f"backbone image_size must be a whole number: {backbone!r}")
    if value["trainable"] not in TRAINABLE:
        raise CheckpointError(f"trainable must be one of {TRAINABLE}, got {value['trainable']!r}")
    options = _object({"options": {}, **backbone}, "options")
    return Recipe(
        BackboneOrigin(
            _text(backbone, "name"), _text(backbone, "sha256"), backbone["image_size"], options
        ),
        **{
            name: Part.from_dict(value[name], field_name=name)
            for name in ("adapter", "decoder", "prompt")
        },
        trainable=value["trainable"],
    )


def _labels(value: object) -> dict[int, str]:
    if not isinstance(value, dict) or not all(
        key.isdecimal() and isinstance(name, str) for key, name in value.items()
    ):
        raise CheckpointError(f"labels must map mask values to names, got {value!r}")
    return {int(key): name for key, name in value.items()}


def _object(value: Mapping[str, Any], name: str) -> dict[str, object]:
    if not isinstance(value[name], dict):
        raise CheckpointError(f"{name} must be an object, got {value[name]!r}")
    return value[name]


def _text(value: Mapping[str, Any], name: str) -> str:
    if not isinstance(value[name], str):
        raise CheckpointError(f"{name} must be a text, got {value[name]!r}")
    return value[name]
