"""Fault ids K-..: see the reliability catalogue; each id stands in the name of its test."""

import hashlib
import json
import os
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from segkit.backbones import checkpoints, safetensors_file, torch_file
from segkit.backbones.checkpoints import (
    KeyReport,
    file_sha256,
    load_sam,
    load_strictly,
    path_inside,
    read_state_dict,
    read_weights,
    write_safetensors,
)
from segkit.backbones.sam_modules import TINY, SamModules
from segkit.errors import CheckpointError


class Payload:
    """Runs a command when unpickled; the file it creates is the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.canary}",)


def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "b.weight": torch.randn(3, 5, generator=generator),
        "a.half": torch.randn(7, generator=generator).half(),
        "a.brain": torch.randn(3, generator=generator).bfloat16(),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.zeros(0, 4),
        "index": torch.arange(4),
        "flags": torch.tensor([True, False, True]),
    }


def sam(seed: int = 0) -> SamModules:
    torch.manual_seed(seed)
    modules = SamModules(TINY)
    for parameter in modules.parameters():
        nn.init.normal_(parameter, std=0.1)
    return modules


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """A file as SAM's authors publish them: a flat state dict in a torch archive."""
    torch.save(sam().state_dict(), path := tmp_path / "sam_tiny.pth")
    return path


@pytest.fixture
def written(tmp_path: Path) -> Path:
    write_safetensors(path := tmp_path / "weights.safetensors", tensors(), {"note": "kept"})
    return path


def with_header(path: Path, header: bytes, data: bytes = b"") -> Path:
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


def entry(start: int, stop: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": [(stop - start) // 4], "data_offsets": [start, stop]}


def refused(path: Path, match: str, *, allow_torch: bool = True) -> None:
    with pytest.raises(CheckpointError, match=match) as raised:
        read_state_dict(path, allow_torch=allow_torch)
    assert raised.value.path == path
    assert str(path) in str(raised.value)


def test_round_trip_of_every_type(written: Path) -> None:
    weights = read_weights(written)
    torch.testing.assert_close(weights.tensors, tensors(), rtol=0, atol=0)
    assert weights.metadata["note"] == "kept"
    assert weights.sha256 == file_sha256(written)
    assert weights.sha256 == hashlib.sha256(written.read_bytes()).hexdigest()


def test_files_are_exchangeable_with_the_safetensors_package(written: Path, tmp_path: Path) -> None:
    torch.testing.assert_close(safetensors.torch.load_file(written), tensors(), rtol=0, atol=0)
    safetensors.torch.save_file(tensors(), other := tmp_path / "other.safetensors")
    torch.testing.assert_close(read_state_dict(other), tensors(), rtol=0, atol=0)


def test_written_files_do_not_depend_on_the_order(written: Path, tmp_path: Path) -> None:
    turned = dict(reversed(tensors().items()))
    assert write_safetensors(tmp_path / "x.safetensors", turned, {"note": "kept"}) == file_sha256(
        written
    )


def test_non_contiguous_and_shared_tensors_are_written_whole(tmp_path: Path) -> None:
    matrix = torch.arange(6.0).view(2, 3)
    write_safetensors(path := tmp_path / "x.safetensors", {"a": matrix.T, "b": matrix[0]})
    torch.testing.assert_close(read_state_dict(path), {"a": matrix.T, "b": matrix[0]})


def test_failed_write_leaves_the_old_file_and_no_other(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = written.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors_file.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_safetensors(written, {"a": torch.ones(3)})
    assert written.read_bytes() == before
    assert list(written.parent.iterdir()) == [written]


def test_write_refuses_types_of_no_code(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"'c' must be one of .*got torch\.complex64"):
        write_safetensors(tmp_path / "x.safetensors", {"c": torch.zeros(2, dtype=torch.complex64)})
    assert not list(tmp_path.iterdir())


def test_tensors_may_be_changed_without_changing_the_file(written: Path) -> None:
    before = file_sha256(written)
    read_state_dict(written)["b.weight"].zero_()
    assert file_sha256(written) == before


@pytest.mark.parametrize("suffix", ["pth", "pt", "ckpt", "bin", "safetensors"])
def test_k01_pickle_payload_is_refused_and_does_not_run(tmp_path: Path, suffix: str) -> None:
    canary = tmp_path / "canary"
    torch.save({"weight": torch.ones(2), "x": Payload(canary)}, path := tmp_path / f"x.{suffix}")
    refused(path, r"contains 'posix\.system', which is no weight")
    assert not canary.exists()


@pytest.mark.parametrize("suffix", ["pth", "bin"])
def test_k01_bare_pickle_is_refused_and_does_not_run(tmp_path: Path, suffix: str) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / f"x.{suffix}"
    torch.save({"x": Payload(canary)}, path, _use_new_zipfile_serialization=False)
    refused(path, "not a complete torch file")
    assert not canary.exists()


def test_k02_torch_files_need_permission(official: Path) -> None:
    refused(official, "is a torch file, here only safetensors", allow_torch=False)


def test_k02_old_torch_is_refused(official: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_file.torch, "__version__", "2.9.1+cpu")
    refused(official, r"needs torch >= 2\.10, this is 2\.9\.1")


@pytest.mark.parametrize(
    "attribute", ["torch.load", "torch.hub.load", "builtins.eval", "collections.Counter"]
)
def test_k02_names_beyond_tensors_are_refused(tmp_path: Path, attribute: str) -> None:
    module, _, name = attribute.rpartition(".")
    pickle = b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"."
    archive = tmp_path / "x.pth"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("x/data.pkl", pickle)
    refused(archive, f"contains '{attribute}', which is no weight")


def test_k02_code_archives_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(path := tmp_path / "x.pth", "w") as file:
        file.writestr("x/data.pkl", b"\x80\x02}.")
        file.writestr("x/constants.pkl", b"\x80\x02).")
    refused(path, "holds code or no data.pkl")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_k02_ambiguous_or_packed_archives_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(path := tmp_path / "x.pth", "w") as file:
        for _ in range(2):
            file.writestr("x/data.pkl", b"\x80\x02}.")
    refused(path, "holds a member twice")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x/data.pkl", b"\x80\x02}.")
    refused(path, "is compressed")


@pytest.mark.parametrize("kind", ["official", "written"])
def test_k03_cut_files_are_refused(kind: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(kind)
    whole = path.read_bytes()
    for part in range(1, 64):
        path.write_bytes(whole[: len(whole) * part // 64])
        with pytest.raises(CheckpointError, match="copy or download it again"):
            read_state_dict(path, allow_torch=True)


def test_k04_any_flipped_bit_of_a_safetensors_file_is_noticed(written: Path) -> None:
    whole = written.read_bytes()
    for index in range(len(whole)):
        damaged = bytearray(whole)
        damaged[index] ^= 1 << index % 8
        written.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            read_state_dict(written)


def test_k04_flipped_bit_of_a_torch_file_is_noticed(official: Path) -> None:
    whole = bytearray(official.read_bytes())
    whole[len(whole) // 2] ^= 1
    official.write_bytes(whole)
    refused(official, "checksum of .* does not match")


def test_k04_hash_beside_the_file_or_given_is_checked(official: Path) -> None:
    good = file_sha256(official)
    sidecar = official.with_name(official.name + ".sha256")
    sidecar.write_text(f"{good}  {official.name}\n")
    assert load_sam(sam(1), official) == good
    sidecar.write_text("0" * 64 + f"  {official.name}\n")
    refused(official, f"sha256 is {good}, expected {'0' * 64}")
    with pytest.raises(CheckpointError, match=f"sha256 is {good}, expected {'1' * 64}"):
        load_sam(sam(1), official, sha256="1" * 64)


def test_load_sam_restores_every_value(official: Path, tmp_path: Path) -> None:
    expected = sam().state_dict()
    write_safetensors(same := tmp_path / "sam.safetensors", expected)
    for path in (official, same):
        modules = sam(1)
        assert load_sam(modules, path) == file_sha256(path)
        torch.testing.assert_close(dict(modules.state_dict()), dict(expected), rtol=0, atol=0)


def keys_differ(state: dict[str, Tensor], path: Path, match: str) -> None:
    torch.save(state, path)
    modules = sam(1)
    before = {name: tensor.clone() for name, tensor in modules.state_dict().items()}
    with pytest.raises(CheckpointError, match=match):
        load_sam(modules, path)
    torch.testing.assert_close(dict(modules.state_dict()), before, rtol=0, atol=0)


def test_k05_missing_keys_are_listed_and_nothing_is_loaded(official: Path) -> None:
    state = dict(sam().state_dict())
    del state["image_encoder.pos_embed"], state["image_encoder.neck.0.weight"]
    keys_differ(state, official, r"2 missing: image_encoder\.pos_embed, image_encoder\.neck\.0")


def test_k06_extra_keys_are_listed_and_nothing_is_loaded(official: Path) -> None:
    state = dict(sam().state_dict()) | {"head.weight": torch.ones(2)}
    keys_differ(state, official, r"1 unexpected: head\.weight")


def test_k07_other_shapes_are_shown_and_nothing_is_loaded(official: Path) -> None:
    state = dict(sam().state_dict())
    name = "image_encoder.blocks.0.attn.qkv.weight"
    state[name] = state[name].T
    keys_differ(state, official, r"qkv\.weight expected \(96, 32\), found \(32, 96\)")


def test_key_report_names_all_kinds_and_the_nearest_name() -> None:
    expected = {f"layer.{i}.weight": torch.ones(2) for i in range(12)}
    found = {f"layers.{i}.weight": torch.ones(2) for i in range(12)}
    report = KeyReport.compare(expected, found)
    assert "12 missing" in str(report)
    assert "and 4 more" in str(report)
    assert "is layers.0.weight meant to be layer.0.weight?" in str(report)
    assert not KeyReport.compare(expected, expected)
    assert str(KeyReport()) == "all keys match"


def test_load_strictly_converts_half_precision() -> None:
    linear = nn.Linear(3, 2)
    state = {"weight": torch.full((2, 3), 0.5).half(), "bias": torch.ones(2).half()}
    load_strictly(linear, state, "x.safetensors")
    assert linear.weight.dtype == torch.float32
    assert (linear.weight == 0.5).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_k11_values_that_are_not_finite_are_refused(
    tmp_path: Path, value: float, dtype: torch.dtype
) -> None:
    state = {"good": torch.ones(3), "bad.weight": torch.tensor([1.0, value]).to(dtype)}
    write_safetensors(path := tmp_path / "x.safetensors", state)
    refused(path, r"1 tensors hold NaN or infinite values: bad\.weight")


@pytest.mark.parametrize("length", [100 * 2**20, 2**40, 2**63])
def test_k12_huge_header_is_refused_before_allocation(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write(length.to_bytes(8, "little") + b"{}")
        file.truncate(128 * 2**20)
    refused(path, "its header says|a header of 104,857,600 bytes; allowed are")


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ({"a": entry(0, 8), "b": entry(4, 12)}, "'b' overlap or leave a gap"),
        ({"a": entry(0, 4), "b": entry(8, 12)}, "'b' overlap or leave a gap"),
        ({"a": entry(0, 64)}, "need 64 bytes, the file holds 12"),
        ({"a": entry(0, 8)}, "need 8 bytes, the file holds 12"),
        ({"a": {**entry(0, 12), "shape": [2]}}, "cannot take 12 bytes"),
        ({"a": {**entry(0, 12), "shape": [-3]}}, "negative or fractional size"),
        ({"a": {**entry(0, 12), "shape": [True, 3]}}, "negative or fractional size"),
        ({"a": {**entry(0, 12), "dtype": "F31"}}, "of unknown type"),
        ({"a": {"dtype": "F32"}}, "incomplete"),
        ({"a": 3}, "incomplete"),
        ({"a": entry(0, 12), "__metadata__": {"x": 1}}, "not a table of texts"),
        ([1, 2], "the header is not a table"),
    ],
)
def test_k13_offsets_and_shapes_must_fit_the_file(
    tmp_path: Path, table: object, match: str
) -> None:
    refused(with_header(tmp_path / "x.safetensors", json.dumps(table).encode(), b"0" * 12), match)


def test_k13_unaligned_files_of_other_writers_are_read(tmp_path: Path) -> None:
    data = np.arange(3, dtype="<f4").tobytes()
    header = json.dumps({"a": entry(0, 12)}).encode()
    header += b" " * (1 - len(header) % 2)
    path = with_header(tmp_path / "x.safetensors", header, data)
    torch.testing.assert_close(read_state_dict(path), {"a": torch.arange(3.0)})


def test_k14_duplicate_names_are_refused(tmp_path: Path) -> None:
    one = json.dumps(entry(0, 4))
    header = f'{{"a": {one}, "a": {one}}}'.encode()
    refused(with_header(tmp_path / "x.safetensors", header, b"0" * 4), "duplicate name 'a'")


def test_k14_deeply_nested_header_is_refused(tmp_path: Path) -> None:
    refused(with_header(tmp_path / "x.safetensors", b"[" * 200_000), "header cannot be read")


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth"])
def test_k15_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    (path := tmp_path / name).touch()
    refused(path, r"is empty \(0 bytes\); copy or download it again")


def test_k16_folder_is_refused_and_its_files_are_suggested(official: Path) -> None:
    refused(official.parent, r"is a folder, not a weight file; name one of \['sam_tiny\.pth'\]")


def test_k16_missing_and_special_files_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "none.pth", "no such file; check the name")
    os.mkfifo(pipe := tmp_path / "pipe.pth")
    refused(pipe, "is not a regular file")


def test_k17_names_that_leave_the_model_folder_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "outside")
    assert path_inside(folder, "a/b.safetensors") == (folder / "a/b.safetensors").resolve()
    for name in ("../outside", "/etc/passwd", "link", "a/../../outside"):
        with pytest.raises(CheckpointError, match="lies outside of the folder"):
            path_inside(folder, name)


def test_k19_no_fallback_follows_a_failed_load(
    official: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, object]] = []

    def failing(*_: object, **options: object) -> None:
        calls.append(options)
        raise torch_file.pickle.UnpicklingError("Weights only load failed; set weights_only=False")

    monkeypatch.setattr(torch_file.torch, "load", failing)
    refused(official, "cannot be read as weights")
    assert [call["weights_only"] for call in calls] == [True]


def test_k23_what_was_hashed_is_what_is_read(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_safetensors(other := tmp_path / "other.safetensors", {"b.weight": torch.zeros(3, 5)})
    hash_file = checkpoints._hash
    good = file_sha256(written)

    def swap_after_hashing(file: object) -> str:
        found = hash_file(file)  # type: ignore[arg-type]
        os.replace(other, written)
        return found

    monkeypatch.setattr(checkpoints, "_hash", swap_after_hashing)
    weights = read_weights(written, sha256=good)
    torch.testing.assert_close(weights.tensors, tensors(), rtol=0, atol=0)


def test_training_checkpoints_are_unwrapped(tmp_path: Path) -> None:
    state = {"w": torch.ones(2)}
    for name in ("model", "state_dict", "model_state_dict"):
        content = {name: state, "epoch": 3, "best_val_loss": np.float32(0.5)}
        torch.save(content, path := tmp_path / f"{name}.pth")
        torch.testing.assert_close(read_state_dict(path, allow_torch=True), state)


def test_numpy_scalars_beside_the_weights_are_tolerated(tmp_path: Path) -> None:
    content = OrderedDict(state_dict={"w": torch.ones(2)}, dice=np.float64(0.5))
    torch.save(content, path := tmp_path / "x.pth")
    torch.testing.assert_close(read_state_dict(path, allow_torch=True), {"w": torch.ones(2)})


@pytest.mark.parametrize("content", [{"epoch": 3}, [torch.ones(2)], {1: torch.ones(2)}, {}])
def test_files_without_state_dict_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, path := tmp_path / "x.pth")
    refused(path, "expected a state dict or one under")


def test_content_decides_not_the_suffix(official: Path) -> None:
    shutil.copy(official, path := official.with_suffix(".safetensors"))
    refused(path, "is a torch file", allow_torch=False)
    assert read_state_dict(path, allow_torch=True).keys() == sam().state_dict().keys()
