"""Epochs and positions as the trainer sees them."""

from tiny_run import CASES, Squares

from segkit.lightning.data import EpochBatches, SegmentationData


def ids(batches: EpochBatches) -> list[tuple[str, ...]]:
    return [batch.case_id for batch in batches]


def test_first_epoch_may_start_in_its_middle_and_still_counts_as_whole() -> None:
    whole, rest = EpochBatches(Squares(), 3, 0, 0, 1), EpochBatches(Squares(), 3, 2, 0, 1)
    assert ids(rest) == ids(whole)[2:]
    assert len(rest) == len(whole) == CASES


def test_told_the_same_epoch_it_keeps_its_place_and_another_starts_afresh() -> None:
    batches = EpochBatches(Squares(), 3, 2, 0, 1)
    batches.sampler.set_epoch(3)
    assert len(ids(batches)) == CASES - 2
    batches.sampler.set_epoch(4)
    assert len(ids(batches)) == CASES
    assert ids(batches) == ids(EpochBatches(Squares(), 4, 0, 0, 1))


def test_processes_share_an_epoch() -> None:
    one, two = (EpochBatches(Squares(), 0, 0, rank, 2) for rank in (0, 1))
    assert len(one) == len(two) == CASES // 2
    assert ids(one) != ids(two)


def test_position_goes_through_a_checkpoint() -> None:
    data = SegmentationData(Squares())
    data.load_state_dict({"epoch": 2, "batches": 3})
    assert data.state_dict() == {"epoch": 2, "batches": 3}
    loader = data.train_dataloader()
    assert (loader.epoch, loader.start) == (2, 3)
    assert len(data.val_dataloader()) == 3
