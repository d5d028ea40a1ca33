"""What clients may say, as types; anything else is refused before it is acted on."""

import json
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from segkit.serve.faults import Refusal, bad

MAX_POINTS = 4096


def _finite(value: float) -> float:
    if not math.isfinite(value) or abs(value) > 1e9:
        raise ValueError("must be a finite number")
    return value


Number = Annotated[float, AfterValidator(_finite)]
Coordinates = Annotated[tuple[Number, ...], Field(min_length=2, max_length=3)]
Edge = Annotated[tuple[Number, Number], Field()]
Edges = Annotated[tuple[Edge, ...], Field(min_length=2, max_length=3)]
Name = Annotated[str, Field(max_length=128)]
Space = Literal["voxel", "ras", "lps"]


class Message(BaseModel):
    """A JSON object with exactly the fields of its class."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Tolerant(BaseModel):
    """A JSON object of a foreign protocol: fields we do not know are left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Points(Message):
    """Clicks: `labels` 1 adds, 0 removes."""

    kind: Literal["points"] = "points"
    points: Annotated[tuple[Coordinates, ...], Field(min_length=1, max_length=MAX_POINTS)]
    labels: tuple[Literal[0, 1], ...]
    space: Space = "voxel"


class Box(Message):
    """Half-open box, one (low, high) per axis in array order; `label` 0 clears inside it."""

    kind: Literal["box"] = "box"
    box: Edges
    label: Literal[0, 1] = 1


class Drawing(Message):
    """A mask, scribble or lasso: its voxels come beside it, inside `box` or for the whole image."""

    kind: Literal["mask", "scribble", "lasso"]
    box: Edges | None = None
    label: Literal[0, 1] = 1


class Propagate(Message):
    """Carry the masks of marked slices to others, voxel slices `start` to before `stop`."""

    kind: Literal["propagate"] = "propagate"
    start: Annotated[int, Field(ge=0)] | None = None
    stop: Annotated[int, Field(ge=0)] | None = None
    hints: tuple[Literal["box", "mask", "points"], ...] = ("box",)


Prompt = Points | Box | Drawing | Propagate
PROMPT: TypeAdapter[Points | Box | Drawing | Propagate] = TypeAdapter(
    Annotated[Points | Box | Drawing | Propagate, Field(discriminator="kind")]
)
M = TypeVar("M", bound=BaseModel)


def strict_json(data: bytes | bytearray | str, limit: int = 2**20) -> Any:
    """Parse JSON without NaN, infinities or repeated keys.

    Raises:
        Refusal: 400; it is not such JSON, or 413, it is larger than `limit`.
    """
    if len(data) > limit:
        raise Refusal(413, f"JSON of {len(data)} bytes, at most {limit} are allowed", "too_large")
    try:
        return json.loads(data, parse_constant=_no_constant, object_pairs_hook=_no_twice)
    except (ValueError, RecursionError) as error:
        raise bad("the body is not valid JSON", "bad_json") from error


def read(kind: type[M], data: bytes | bytearray | str, limit: int = 2**20) -> M:
    """Read a message of one class; an empty body stands for {}.

    Raises:
        Refusal: 400; a field is missing, unknown or has another type or range.
    """
    value = strict_json(data, limit) if data else {}
    return check(kind, value)


def check(kind: type[M], value: object) -> M:
    """Message from values that were parsed already."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise bad(_where(error), "bad_field") from error


def read_prompt(value: object) -> Prompt:
    """Prompt of the segkit protocol from parsed JSON."""
    try:
        return PROMPT.validate_python(value)
    except ValidationError as error:
        raise bad(_where(error), "bad_field") from error


def _where(error: ValidationError) -> str:
    """Field and fault, without the value that was sent."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    # the name of a field that nobody knows is the client's own text
    known = first["loc"][:-1] if first["type"] == "extra_forbidden" else first["loc"]
    field = ".".join(map(str, known)) or "the body"
    return f"{field}: {first['msg']}"


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _no_twice(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found
