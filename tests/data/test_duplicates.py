from pathlib import Path

from segkit.data.duplicates import file_digest, identical_files


def test_groups_are_by_content(tmp_path: Path) -> None:
    contents = {"a": b"x" * 300_000, "b": b"y", "c": b"x" * 300_000, "d": b"z", "e": b"y"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    paths = [tmp_path / name for name in contents]
    twins = [[path.name for path in group] for group in identical_files([*paths, paths[0]])]
    assert sorted(twins) == [["a", "c"], ["b", "e"]]


def test_files_that_differ_between_the_sampled_blocks(tmp_path: Path) -> None:
    one, other = bytearray(1_000_000), bytearray(1_000_000)
    other[200_000] = 1
    (tmp_path / "one").write_bytes(one)
    (tmp_path / "other").write_bytes(other)
    assert identical_files([tmp_path / "one", tmp_path / "other"]) == []


def test_missing_files_do_not_count(tmp_path: Path) -> None:
    assert identical_files([tmp_path / "a", tmp_path / "b"]) == []


def test_digest_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_digest(tmp_path / "a") == expected
