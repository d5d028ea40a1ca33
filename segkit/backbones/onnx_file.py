"""Files of exported encoders: an ONNX graph that carries what it was made from.

The record is one JSON document under `segkit` in the metadata of the model, the last bytes of the
file; it holds the hash of all bytes before it. Any program that reads ONNX reads these files.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from segkit.backbones.checkpoints import open_regular
from segkit.backbones.onnx_graph import PRECISIONS, Precision
from segkit.data.atomic import atomic_file
from segkit.errors import CheckpointError, InputError
from segkit.version import VERSION

FORMAT = 1
_KEY = b"segkit"
_METADATA = 14  # number of the field `metadata_props` of an ONNX model
_LONGEST = 2**16
_AGAIN = "export it again: segkit convert --to int8 MODEL -o FILE"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True)
class EncoderRecord:
    """What a file of an exported encoder says about itself.

    `weights_sha256` is the hash of encoder and adapter it was made from, `side` that of its input
    in pixels. `agreement` compares its masks with those of the float encoder
    (`segkit.predictors.agreement`), `made_with` names versions.
    """

    backbone: str
    weights_sha256: str
    precision: Precision
    side: int
    agreement: Mapping[str, Any]
    made_with: Mapping[str, str] = field(default_factory=dict)
    created: str = field(default_factory=_now)
    segkit_version: str = VERSION

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_dict(cls, value: object) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            CheckpointError: It is something else, or of a newer format.
        """
        if not isinstance(value, dict) or type(value.get("format")) is not int:
            raise CheckpointError("its record names no format", fix=_AGAIN)
        if value["format"] != FORMAT:
            raise CheckpointError(
                f"format {value['format']} is not {FORMAT}, which this segkit {VERSION} reads",
                fix=_AGAIN,
                code="newer_format",
            )
        kinds = {"side": int, "agreement": dict, "made_with": dict}
        rest = {key: item for key, item in value.items() if key != "format"}
        wrong = [
            one.name
            for one in fields(cls)
            if type(rest.get(one.name)) is not kinds.get(one.name, str)
        ]
        if wrong or len(rest) != len(fields(cls)) or rest["precision"] not in PRECISIONS:
            raise CheckpointError(
                f"its record is not complete: {wrong or sorted(rest)}", fix=_AGAIN
            )
        return cls(**rest)


def write_encoder(path: Path, graph: bytes, record: EncoderRecord) -> None:
    """Write a graph and its record.

    Raises:
        InputError: The suffix is not .onnx, or the file cannot be written.
    """
    if path.suffix != ".onnx":
        raise InputError("the output must be a .onnx file", path=path, fix="name it encoder.onnx")
    document = {**record.to_dict(), "graph_sha256": hashlib.sha256(graph).hexdigest()}
    with atomic_file(path) as file:
        file.write(graph)
        file.write(_entry(json.dumps(document).encode()))


def read_encoder(path: str | Path) -> tuple[bytes, EncoderRecord]:
    """Read and verify what `write_encoder` wrote; nothing of the graph is interpreted.

    Raises:
        CheckpointError: It is no such file, damaged, or of a newer format.
    """
    path = Path(path)
    with closing(open_regular(path)) as file:
        content = file.read()
    try:
        document, tail = _document(content)
        expected = document.pop("graph_sha256", None)
        found = hashlib.sha256(memoryview(content)[: len(content) - len(tail)]).hexdigest()
        if found != expected:
            raise CheckpointError(
                f"is damaged: sha256 of the graph is {found}, expected {expected}",
                fix=_AGAIN,
                code="damaged_checkpoint",
            )
        return content, EncoderRecord.from_dict(document)
    except CheckpointError as error:
        raise CheckpointError(error.cause, fix=error.fix, path=path, code=error.code) from error


def _document(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The record at the end of a file, and the bytes it takes there."""
    start = content.rfind(_text(1, _KEY), -min(_LONGEST, len(content)))
    try:
        document = json.loads(content[content.index(b"{", start) :]) if start >= 0 else None
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict):
        tail = _entry(content[content.index(b"{", start) :])
        if content.endswith(tail):
            return document, tail
    raise CheckpointError(
        "no encoder exported by segkit: its last bytes hold no record", fix=_AGAIN
    )


def _entry(text: bytes) -> bytes:
    """One entry of the metadata of an ONNX model, as protobuf writes it."""
    return _text(_METADATA, _text(1, _KEY) + _text(2, text))


def _text(number: int, content: bytes) -> bytes:
    """A field of bytes: its number and kind, its length, seven bits a byte, and the bytes."""
    length, head = len(content), bytearray([number << 3 | 2])
    while length >= 0x80:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + content
