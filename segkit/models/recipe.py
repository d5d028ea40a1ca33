"""How the parts of a model were built, as plain values that a file can hold.

A recipe names classes by dotted path. Reading one builds nothing but classes of the packages
listed in `_BASES`: a file cannot make segkit call anything else.
"""

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any, Literal

from torch import nn

import segkit.adapters
import segkit.decoders
import segkit.prompts
from segkit.adapters.base import Adapter
from segkit.decoders.base import Decoder
from segkit.errors import CheckpointError, InputError
from segkit.prompts.base import PromptEncoder

_BASES: dict[str, tuple[ModuleType, type[nn.Module]]] = {
    "segkit.adapters": (segkit.adapters, Adapter),
    "segkit.decoders": (segkit.decoders, Decoder),
    "segkit.prompts": (segkit.prompts, PromptEncoder),
}

Trainable = Literal["adapter", "decoder", "all"]
TRAINABLE: tuple[Trainable, ...] = ("adapter", "decoder", "all")


@dataclass(frozen=True, slots=True)
class Part:
    """One class and the keyword arguments it was built with; values may be parts again."""

    target: str
    args: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def of(cls, factory: Callable[..., object], **more: object) -> "Part":
        """Describe a class or a `functools.partial` of one, called with `more`.

        Raises:
            ValueError: The partial has positional arguments.
        """
        args: dict[str, object] = {}
        while isinstance(factory, partial):
            if factory.args:
                raise ValueError(f"name the arguments of {factory!r}; positional ones are lost")
            args, factory = {**factory.keywords, **args}, factory.func
        return cls(_dotted(factory), {**args, **more})

    @classmethod
    def from_dict(cls, value: object, *, field_name: str) -> "Part":
        """Read what `to_dict` wrote and check that it can be built.

        Raises:
            CheckpointError: Unknown keys, a class that is not on the list, wrong arguments.
        """
        if not isinstance(value, dict) or value.keys() != {"target", "args"}:
            raise CheckpointError(
                f"{field_name} must have exactly the keys 'target' and 'args', got {value!r}"
            )
        target, args = value["target"], value["args"]
        if not isinstance(target, str) or not isinstance(args, dict):
            raise CheckpointError(f"{field_name} must name a class and its arguments, got {value}")
        part = cls(target, {key: _decode(item, field_name) for key, item in args.items()})
        part.factory(field_name)
        return part

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON.

        Raises:
            InputError: An argument, or the class itself, cannot be restored from a file.
        """
        try:
            _resolve(self.target, "this part")
        except CheckpointError as error:
            raise InputError(
                f"{self.target} cannot be written to a file: {error.cause}", fix=error.fix
            ) from error
        return {
            "target": self.target,
            "args": {key: _encode(item, key) for key, item in self.args.items()},
        }

    def factory(self, field_name: str = "this part") -> Callable[..., Any]:
        """Return the class with its arguments bound.

        Raises:
            CheckpointError: The class is not on the list, or does not take the arguments.
        """
        found = _resolve(self.target, field_name)
        args = {key: _realise(value, field_name) for key, value in self.args.items()}
        try:
            inspect.signature(found).bind_partial(**args)
        except TypeError as error:
            allowed = list(inspect.signature(found).parameters)[1:]
            raise CheckpointError(
                f"{field_name}: {self.target} does not take these arguments ({error})",
                fix=f"allowed: {allowed}",
            ) from error
        return partial(found, **args)


@dataclass(frozen=True, slots=True)
class BackboneOrigin:
    """Which weights a model stands on; `image_size` is the nominal input side in pixels.

    `options` are further arguments of the builder, plain values, such as the strides of a U-Net.
    """

    name: str
    sha256: str
    image_size: int
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that is needed to build a model again, except the weights."""

    backbone: BackboneOrigin
    adapter: Part
    decoder: Part
    prompt: Part
    trainable: Trainable = "adapter"


def _dotted(factory: Callable[..., object]) -> str:
    """Name a class as its package exports it, or by its module if no package does."""
    name = getattr(factory, "__qualname__", type(factory).__qualname__)
    for package, (module, base) in _BASES.items():
        if factory in (base, getattr(module, name, None)):
            return f"{package}.{name}"
    return f"{getattr(factory, '__module__', '')}.{name}"


def _resolve(target: str, field_name: str) -> type[nn.Module]:
    package, _, name = target.rpartition(".")
    module, base = _BASES.get(package, (None, nn.Module))
    found = base if name == base.__name__ else getattr(module, name, None)
    if isinstance(found, type) and issubclass(found, base):
        return found
    known = [
        f"{package}.{name}"
        for package, (module, base) in _BASES.items()
        for name in dir(module)
        if isinstance(value := getattr(module, name), type) and issubclass(value, base)
    ]
    near = difflib.get_close_matches(target, known, n=1)
    raise CheckpointError(
        f"{field_name} names {target!r}, which is not a class of {', '.join(_BASES)}",
        fix=f"did you mean {near[0]!r}?" if near else f"allowed: {sorted(known)}",
        code="unknown_target",
    )


def _encode(value: object, name: str) -> object:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_encode(item, name) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _encode(item, name) for key, item in value.items()}
    if isinstance(value, Part):
        return value.to_dict()
    if isinstance(value, type | partial):
        return Part.of(value).to_dict()
    raise InputError(
        f"argument {name!r} cannot be written to a file: {value!r}",
        fix="use numbers, texts, lists, or classes of segkit",
    )


def _decode(value: object, field_name: str) -> object:
    if isinstance(value, list):
        return [_decode(item, field_name) for item in value]
    if isinstance(value, dict):
        if value.keys() == {"target", "args"}:
            return Part.from_dict(value, field_name=field_name)
        return {key: _decode(item, field_name) for key, item in value.items()}
    return value


def _realise(value: object, field_name: str) -> object:
    """Turn parts inside an argument into what builds them."""
    if isinstance(value, Part):
        return value.factory(field_name)
    if isinstance(value, list):
        return [_realise(item, field_name) for item in value]
    if isinstance(value, dict):
        return {key: _realise(item, field_name) for key, item in value.items()}
    return value
