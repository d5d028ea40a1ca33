import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from segkit.backbones.onnx_file import EncoderRecord, read_encoder, write_encoder
from segkit.errors import CheckpointError, InputError

RECORD = EncoderRecord("sam_tiny", "ab" * 32, "int8", 64, {"mean_iou": 0.99}, {"onnx": "1"})
GRAPH = b"\x08\x0a\x12\x06segkit"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_encoder(path := tmp_path / "encoder.onnx", GRAPH, RECORD)
    return path


def test_what_is_written_is_read(path: Path) -> None:
    content, record = read_encoder(path)
    assert content == path.read_bytes()
    assert content.startswith(GRAPH)
    assert record == RECORD


@pytest.mark.parametrize("length", [1, 100, 200, 20_000])
def test_records_of_any_length_are_found(tmp_path: Path, length: int) -> None:
    record = replace(RECORD, agreement={"data": "x" * length, "text": '\n\x06segkit{"a": 1}'})
    write_encoder(path := tmp_path / "e.onnx", GRAPH, record)
    assert read_encoder(path)[1] == record


def test_other_programs_read_graph_and_record(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="needs segkit[int8]")
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    names = [onnx.helper.make_tensor_value_info(name, 1, [2]) for name in "xy"]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", names[:1], names[1:]))
    write_encoder(path := tmp_path / "e.onnx", model.SerializeToString(), RECORD)
    found = onnx.load(path)
    assert found.graph == model.graph
    (entry,) = found.metadata_props
    assert entry.key == "segkit"
    assert json.loads(entry.value)["weights_sha256"] == RECORD.weights_sha256


@pytest.mark.parametrize("place", [0, len(GRAPH) - 1])
def test_a_changed_byte_of_the_graph_is_noticed(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"encoder\.onnx: is damaged: sha256 of the graph"):
        read_encoder(path)


def test_a_changed_byte_of_the_record_is_noticed(path: Path) -> None:
    content = path.read_bytes()
    for place in range(len(GRAPH), len(content)):
        changed = bytearray(content)
        changed[place] ^= 0x01
        path.write_bytes(changed)
        try:
            record = read_encoder(path)[1]
        except CheckpointError:
            continue
        assert record != RECORD, place


@pytest.mark.parametrize(
    "content", [b"x", GRAPH, GRAPH + b"\n\x06segkit\x12\x02{}", pickle.dumps({})]
)
def test_other_files_are_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="no encoder exported by segkit"):
        read_encoder(path)


def test_cut_files_are_refused(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(CheckpointError, match="no encoder exported by segkit"):
        read_encoder(path)
    path.write_bytes(content[3:])
    with pytest.raises(CheckpointError, match="is damaged"):
        read_encoder(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2 is not 1"),
        ({"format": None}, "names no format"),
        ({"side": "64"}, r"not complete: \['side'\]"),
        ({"precision": "int4"}, "not complete"),
        ({"more": 1}, "not complete"),
    ],
)
def test_records_of_another_form_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        EncoderRecord.from_dict({**RECORD.to_dict(), **change})


def test_other_suffixes_and_absent_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must be a \.onnx file; name it"):
        write_encoder(tmp_path / "encoder.safetensors", GRAPH, RECORD)
    with pytest.raises(CheckpointError, match="no such file"):
        read_encoder(tmp_path / "absent.onnx")
