import json
import os
from pathlib import Path

import pytest

from segkit.data import digests
from segkit.data.digests import DigestMemo
from segkit.data.duplicates import file_digest


def test_a_digest_is_remembered_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, memory = tmp_path / "patient_name.nii", tmp_path / "digests.json"
    data.write_bytes(b"one")
    first = DigestMemo(memory)
    digest = first(data)
    first.save()
    assert digest == file_digest(data)
    monkeypatch.setattr(digests, "file_digest", lambda _: "hashed again")
    assert DigestMemo(memory)(data) == digest
    os.utime(data, ns=(1, 1))
    assert DigestMemo(memory)(data) == "hashed again"


def test_the_memory_holds_no_names(tmp_path: Path) -> None:
    data, memory = tmp_path / "patient_name.nii", tmp_path / "digests.json"
    data.write_bytes(b"one")
    memo = DigestMemo(memory)
    memo(data)
    memo.save()
    assert "patient" not in memory.read_text()
    assert len(json.loads(memory.read_text())) == 1


@pytest.mark.parametrize("content", ["{", "[1]", '{"a": 1}', "\0"])
def test_a_damaged_memory_costs_only_time(tmp_path: Path, content: str) -> None:
    memory = tmp_path / "digests.json"
    memory.write_text(content)
    data = tmp_path / "a"
    data.write_bytes(b"one")
    memo = DigestMemo(memory)
    assert memo(data) == file_digest(data)
    memo.save()
    assert list(json.loads(memory.read_text()).values()) == [file_digest(data)]


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    data = tmp_path / "a"
    data.write_bytes(b"one")
    memo = DigestMemo(tmp_path / "absent" / "digests.json")
    assert memo(data) == file_digest(data)
    memo.save()
    assert not (tmp_path / "absent").exists()


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        DigestMemo(tmp_path / "m.json")(tmp_path / "absent")
