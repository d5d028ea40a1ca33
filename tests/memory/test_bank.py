import pytest
import torch

from segkit.memory import Capacity, MemoryBank

CELLS, MEMORY, DIM = 6, 4, 8


def _seen(bank: MemoryBank, frame: int, *, is_prompted: bool = False, ids=(1,)) -> MemoryBank:
    maps = torch.full((len(ids), CELLS, MEMORY), float(frame))
    pointers = torch.full((len(ids), DIM), float(frame))
    return bank.add(ids).at(frame).remember(ids, maps, pointers, is_prompted=is_prompted)


def _track(frames: range, **options) -> MemoryBank:
    bank = _seen(MemoryBank(**options), frames[0], is_prompted=True)
    for frame in frames[1:]:
        bank = _seen(bank, frame)
    return bank


def test_reach_is_six_maps_and_fifteen_pointers() -> None:
    (found,) = _track(range(40)).at(40).recollect([1])
    assert [(float(m[0, 0]), age) for m, age in found.maps] == [
        (0.0, 0), *((float(40 - age), age) for age in range(1, 7))
    ]  # fmt: skip
    assert [age for _, age in found.pointers] == [40, *range(1, 16)]


def test_the_latest_frame_can_be_corrected_from_all_that_was_known_before_it() -> None:
    (found,) = _track(range(40)).at(39).recollect([1])
    assert [age for _, age in found.maps] == [0, *range(1, 7)]
    assert [age for _, age in found.pointers] == [39, *range(1, 16)]


def test_size_is_constant_over_200_frames() -> None:
    bank, sizes = _seen(MemoryBank(), 0, is_prompted=True), []
    for frame in range(1, 200):
        bank = _seen(bank, frame)
        sizes.append(bank.n_bytes)
    assert len(set(sizes[16:])) == 1


def test_prompted_frames_are_capped_but_the_first_stays() -> None:
    bank = MemoryBank(capacity=Capacity(prompted=3))
    for frame in (2, 5, 8, 11):
        bank = _seen(bank, frame, is_prompted=True)
    assert [memory.frame for memory in bank.objects[0].prompted] == [2, 8, 11]


def test_a_correction_replaces_what_was_tracked() -> None:
    bank = _seen(_track(range(4)), 2, is_prompted=True)
    (one,) = bank.objects
    assert [memory.frame for memory in one.prompted] == [0, 2]
    assert [memory.frame for memory in one.recent] == [1, 3]
    assert [m.frame for m in bank.forget(1, 2).objects[0].prompted] == [0]


def test_backwards_only_later_frames_count() -> None:
    (found,) = _track(range(10)).at(5, -1).recollect([1])
    assert [age for _, age in found.maps] == [0, 4, 3, 2, 1]
    # the prompted frame 0 lies in the future of a backward pass: its map counts, not its pointer
    assert sorted(age for _, age in found.pointers) == [1, 2, 3, 4]


def test_writing_leaves_the_bank_before_as_it_was() -> None:
    before = _track(range(3))
    ages = [memory.frame for memory in before.objects[0].recent]
    _seen(before, 3)
    assert [memory.frame for memory in before.objects[0].recent] == ages


def test_objects_are_added_and_removed() -> None:
    bank = _seen(_track(range(3)), 3, ids=(1, 5))
    assert bank.ids == (1, 5)
    assert bank.remove(1).ids == (5,)
    with pytest.raises(ValueError, match=r"objects \[1\] are not in the bank; it holds \(5,\)"):
        bank.remove(1).recollect([1])


def test_maps_are_rounded_to_bfloat16_unless_told_otherwise() -> None:
    assert _track(range(1)).objects[0].prompted[0].map.dtype == torch.bfloat16
    assert _track(range(1), rounds=False).objects[0].prompted[0].map.dtype == torch.float32


def test_capacity_is_checked() -> None:
    with pytest.raises(ValueError, match="prompted >= 2 and pointers >= maps >= 1"):
        Capacity(maps=9, pointers=3)
