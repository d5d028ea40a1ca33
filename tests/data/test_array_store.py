"""Arrays on disk: bounded, checked, whole or absent."""

from pathlib import Path

import numpy as np
import pytest

from segkit.data.array_store import ArrayStore
from segkit.errors import DataWarning, InputError


def test_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    store = ArrayStore(tmp_path, most_bytes=2**20)
    arrays = [np.random.default_rng(0).normal(size=(3, 5)).astype("f4"), np.zeros((0, 2), "f2")]
    assert store.put("a", arrays)
    found = ArrayStore(tmp_path, most_bytes=2**20).get("a")
    assert found is not None
    for one, other in zip(found, arrays, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert store.get("b") is None


@pytest.mark.parametrize("place", [3, 14, 40, -3])
def test_damage_is_noticed(tmp_path: Path, place: int) -> None:
    store = ArrayStore(tmp_path, most_bytes=2**20)
    store.put("a", [np.arange(100, dtype="f4")])
    content = bytearray((tmp_path / "a").read_bytes())
    content[place] ^= 0xFF
    (tmp_path / "a").write_bytes(content)
    with pytest.warns(DataWarning, match="damaged"):
        assert store.get("a") is None
    assert not (tmp_path / "a").exists()


def test_a_short_file_is_damaged(tmp_path: Path) -> None:
    store = ArrayStore(tmp_path, most_bytes=2**20)
    (tmp_path / "a").write_bytes(b"SEG")
    with pytest.warns(DataWarning, match="damaged"):
        assert store.get("a") is None


def test_a_full_store_takes_no_more_and_drops_the_oldest_next_time(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, 1000, dtype="u1")
    store = ArrayStore(tmp_path, most_bytes=2500)
    assert [store.put(str(n), [noise]) for n in range(3)] == [True, True, False]
    assert store.get("0") is not None
    smaller = ArrayStore(tmp_path, most_bytes=1200)
    assert sum(smaller.get(str(n)) is not None for n in range(3)) == 1


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cache cannot be written"):
        ArrayStore(tmp_path / "file" / "x", most_bytes=1)
