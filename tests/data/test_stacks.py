import io
from pathlib import Path

import numpy as np
import pytest

from segkit.data.stacks import (
    Stack,
    StackError,
    StackFacts,
    StackSlice,
    open_stack,
    quantise,
    write_stack,
)

FACTS = StackFacts(
    size=16,
    content=(16, 11),
    channels=3,
    spacing_mm=(3.0, 0.5, 0.5),
    image_dtype="uint16",
    label_dtype="uint8",
)


def slices(count: int = 4) -> list[StackSlice]:
    rng = np.random.default_rng(0)
    return [
        StackSlice(
            quantise(rng.random((3, 16, 11), dtype=np.float32), "uint16"),
            (rng.random((16, 11)) < 0.1 * index).astype(np.uint8) * 2,
        )
        for index in range(count)
    ]


def written(path: Path) -> Stack:
    with path.open("wb") as stream:
        write_stack(stream, FACTS, iter(slices()))
    return open_stack(path)


def test_a_written_stack_reads_back(tmp_path: Path) -> None:
    stack = written(tmp_path / "a")
    expected = slices()
    assert (len(stack), stack.facts) == (4, FACTS)
    for index, one in enumerate(expected):
        image, label = stack.image(index), stack.label(index)
        assert image.dtype == np.float32
        assert label.dtype == np.int64
        np.testing.assert_array_equal(quantise(image, "uint16"), one.image)
        np.testing.assert_array_equal(label, one.label)
    assert stack.foreground.tolist() == [np.count_nonzero(one.label) for one in expected]
    assert stack.foreground[0] == 0


@pytest.mark.parametrize(("dtype", "tolerance"), [("uint8", 1 / 510), ("uint16", 1 / 131070)])
def test_declared_tolerance(dtype: str, tolerance: float) -> None:
    image = np.linspace(0, 1, 10_001, dtype=np.float32).reshape(1, 1, -1)
    steps = {"uint8": 255, "uint16": 65535}[dtype]
    error = np.abs(quantise(image, dtype).astype(np.float64) / steps - image)
    assert error.max() <= tolerance * 1.01


def test_eight_bit_pictures_are_exact() -> None:
    grey = np.arange(256, dtype=np.uint8)
    unit = (grey / np.float32(255)).reshape(1, 1, -1)
    np.testing.assert_array_equal(quantise(unit, "uint8").ravel(), grey)


def test_same_content_gives_the_same_bytes() -> None:
    streams = [io.BytesIO(), io.BytesIO()]
    for stream in streams:
        write_stack(stream, FACTS, iter(slices()))
    assert streams[0].getvalue() == streams[1].getvalue()


def test_every_cut_and_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    written(path)
    whole = path.read_bytes()
    for cut in range(0, len(whole), max(1, len(whole) // 64)):
        path.write_bytes(whole[:cut])
        with pytest.raises(StackError):
            open_stack(path).check()
    for position in range(0, len(whole), 61):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        with pytest.raises(StackError):
            open_stack(path).check()


def test_a_chunk_of_another_size_is_not_decompressed(tmp_path: Path) -> None:
    stack = written(tmp_path / "a")
    swapped = Stack(stack.path, stack.facts, stack.foreground, stack.chunks[:, [3, 4, 5, 0, 1, 2]])
    with pytest.raises(StackError, match="another size than the footer says"):
        swapped.image(0)


def test_a_removed_file_is_named_as_damage(tmp_path: Path) -> None:
    stack = written(tmp_path / "a")
    stack.path.unlink()
    with pytest.raises(StackError, match="slice 2 cannot be read: No such file"):
        stack.image(2)
