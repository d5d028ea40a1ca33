import dataclasses
import pickle

import pytest
import torch

from segkit.data.batches import Sample, collate


def sample(index: int) -> Sample:
    mask = torch.full((4, 6), index)
    return Sample(torch.full((3, 4, 6), index / 10), mask, f"case_{index}", index, (0.5, 0.7))


def test_collate_keeps_order_and_types() -> None:
    batch = collate([sample(1), sample(2)])
    assert batch.image.shape == (2, 3, 4, 6)
    assert (batch.mask.dtype, batch.slice_index.dtype) == (torch.int64, torch.int64)
    assert batch.mask[:, 0, 0].tolist() == [1, 2]
    assert batch.case_id == ("case_1", "case_2")
    assert batch.slice_index.tolist() == [1, 2]
    torch.testing.assert_close(batch.spacing_mm, torch.tensor([[0.5, 0.7]] * 2))
    assert len(batch) == 2


def test_collate_needs_a_sample() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        collate([])


def test_to_moves_every_tensor_and_keeps_the_rest() -> None:
    moved = collate([sample(1)]).to("meta")
    tensors = (moved.image, moved.mask, moved.slice_index, moved.spacing_mm)
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert moved.case_id == ("case_1",)


def test_a_batch_is_a_value() -> None:
    batch = collate([sample(1)])
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch.image = batch.image  # type: ignore[misc]
    assert torch.equal(pickle.loads(pickle.dumps(batch)).image, batch.image)


def test_fields_must_agree() -> None:
    batch = collate([sample(1)])
    with pytest.raises(ValueError, match="all fields must have the same length"):
        dataclasses.replace(batch, case_id=("a", "b"))
    with pytest.raises(ValueError, match="image and mask must have the same size"):
        dataclasses.replace(batch, mask=torch.zeros(1, 2, 2, dtype=torch.int64))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_pinned_memory() -> None:
    batch = collate([sample(1)]).pin_memory()
    assert batch.image.is_pinned()
    assert batch.to("cuda", non_blocking=True).mask.is_cuda
