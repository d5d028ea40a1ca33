"""What DD-SAM2's released training does with the memory, beside what SAM 2 does (F4 to F7)."""

import pytest
import torch

from segkit.errors import InputError
from segkit.memory import MemoryBank
from segkit.models import build
from segkit.models.dd_sam2_tracker import DDSam2Tracker
from segkit.models.tracker import ObjectPrompt, Tracker

SIZE, LENGTH = 64, 8
BOX = ObjectPrompt(torch.tensor([[0.0, 14.0, 12.0], [0.0, 40.0, 44.0]]), torch.tensor([2, 3]))


@pytest.fixture
def sound() -> Tracker:
    torch.manual_seed(0)
    tracker = build.sam2_test.tracker(image_size=SIZE).train()
    tracker.memory.eval()
    for parameter in tracker.memory.parameters():  # a layer scale of 1e-6 would hide differences
        torch.nn.init.normal_(parameter, std=0.2)
    return tracker


@pytest.fixture
def released(sound: Tracker) -> DDSam2Tracker:
    return DDSam2Tracker(sound.segmenter, sound.memory, frames=LENGTH)


@torch.no_grad()
def follow(tracker: Tracker, frames: int = LENGTH, shift: float = 0.0):
    """Predictions of all frames, and the bank before each."""
    head = tracker.decoder.module.pred_obj_score_head.layers[-1]
    head.bias.sub_(shift)
    generator = torch.Generator().manual_seed(1)
    bank, found, banks = MemoryBank(rounds=False), [], []
    for index in range(frames):
        features = tracker.encode(torch.rand(1, 3, SIZE, SIZE, generator=generator))
        banks.append(bank)
        prediction, bank = tracker.step(features, None if index else {5: BOX}, bank)
        found.append(prediction)
    head.bias.add_(shift)
    return found, banks


@torch.no_grad()
def recalled(tracker: Tracker, bank: MemoryBank):
    if isinstance(tracker, DDSam2Tracker):
        return tracker.recall(bank, [5], (4, 4))
    return tracker.memory.recall(bank.recollect([5]), (4, 4), tracker.device)


def codes_of_maps(tracker: Tracker, bank: MemoryBank):
    """Time codes of the maps without those of their cells, by age (1 is the latest)."""
    recall = recalled(tracker, bank)
    codes = recall.codes[0, : recall.count * 16].unflatten(0, (recall.count, 16))
    place = tracker.memory.recall(bank.recollect([5]), (4, 4), tracker.device).codes[0, :16]
    return codes[:, 0] - (place[0] - tracker.memory.maskmem_tpos_enc[-1, 0, 0])


def test_f4_memory_is_written_from_probabilities(sound, released) -> None:
    seen: list[torch.Tensor] = []
    sound.memory.memory_encoder.register_forward_hook(lambda _m, args, _o: seen.append(args[1]))
    follow(released, 2)
    assert all(masks.min() >= 0 and masks.max() <= 1 for masks in seen)
    seen.clear()
    follow(sound, 2)
    # SAM 2's scaling: from -10 to 10
    assert min(masks.min() for masks in seen) < 0
    seen.clear()


def test_f5_time_codes_add_up_and_the_marked_frame_ages(sound, released) -> None:
    table = sound.memory.maskmem_tpos_enc[:, 0, 0]
    bank = follow(released, 4)[1][3]  # before the fourth frame: ages 3, 2 and 1
    sums = torch.stack([table[:3].sum(0), table[:2].sum(0), table[0]])
    torch.testing.assert_close(codes_of_maps(released, bank), sums)
    # SAM 2: one row for an age, and the last for marked frames
    kept = torch.stack([table[-1], table[0], table[1]])
    found = codes_of_maps(sound, follow(sound, 4)[1][3])
    torch.testing.assert_close(found[0], kept[0])
    assert {tuple(row.tolist()) for row in found.round(decimals=4)} == {
        tuple(row.tolist()) for row in kept.round(decimals=4)
    }


def test_f6_all_maps_and_the_pointer_of_the_first_frame(sound, released) -> None:
    parts = sound.memory.sizes.dim // sound.memory.sizes.memory_dim
    for index in range(1, LENGTH):
        found, banks = follow(released, index + 1)
        recall = recalled(released, banks[index])
        assert recall.count == index
        assert recall.tokens.shape[1] == 16 * index + parts
        pointer = recall.tokens[0, -parts:].flatten()
        torch.testing.assert_close(pointer, found[0].pointers[0])
        # SAM 2 looks at the pointers of all these frames
        assert recalled(sound, banks[index]).tokens.shape[1] == 16 * index + parts * index


def test_f6_the_pointer_is_dated_by_the_length_of_the_window(sound, released) -> None:
    bank = follow(released, 4)[1][3]
    longer = DDSam2Tracker(sound.segmenter, sound.memory, frames=4)
    one, other = (recalled(tracker, bank).codes[0, -1] for tracker in (released, longer))
    assert not torch.allclose(one, other)
    # at the end of a window the code is that of 1, whatever its length
    last = follow(released)[1][LENGTH - 1]
    torch.testing.assert_close(recalled(released, last).codes[0, -1], other)


def test_f7_the_single_mask_is_taken_in_training(sound, released) -> None:
    seen = []
    every = sound.decoder.every_mask
    sound.segmenter.decoder.every_mask = lambda *args: seen.append(every(*args)) or seen[-1]
    found, _ = follow(released, 3)
    for masks, prediction in zip(seen, found, strict=True):
        torch.testing.assert_close(prediction.raw, masks.logits[:, :1].float())
    seen.clear()
    found, _ = follow(sound, 3)
    torch.testing.assert_close(found[2].raw, seen[2].best().logits)
    assert found[2].raw.data_ptr() != seen[2].logits[:, :1].data_ptr()
    best = seen[2].logits[0, 1:][seen[2].iou[0, 1:].argmax()]
    torch.testing.assert_close(found[2].raw[0, 0], best)
    assert not torch.allclose(best, seen[2].logits[0, 0])


def test_objects_that_are_not_seen_keep_mask_and_pointer(sound, released) -> None:
    found, banks = follow(released, 3, shift=100.0)
    assert (found[2].score < 0).all()
    assert torch.equal(found[2].logits, found[2].raw)
    assert not torch.equal(found[0].pointers[0], sound.memory.no_obj_ptr[0])
    assert recalled(released, banks[2]).count == 2
    lost, _ = follow(sound, 3, shift=100.0)
    assert (lost[2].logits == -1024).all()
    assert torch.equal(lost[2].pointers[0], sound.memory.no_obj_ptr[0])


def test_longer_windows_are_refused(sound) -> None:
    with pytest.raises(InputError, match=r"windows of up to 8 frames, got 9") as refused:
        DDSam2Tracker(sound.segmenter, sound.memory, frames=9)
    assert "data.frames=8" in str(refused.value)


def test_models_without_dates_for_pointers_have_none() -> None:
    from dataclasses import replace

    from segkit.backbones.sam2_modules import SAM2_TEST
    from segkit.models.build_sam2 import Sam2Builder

    sizes = replace(SAM2_TEST, pointer_positions=False, occlusion_embedding=False)
    tracker = Sam2Builder(sizes, "random").tracker(image_size=SIZE)
    released = DDSam2Tracker(tracker.segmenter, tracker.memory, frames=3)
    _, banks = follow(released, 3)
    assert not recalled(released, banks[2]).codes[0, -2:].any()
