import pytest
import torch

from segkit.errors import InputError
from segkit.memory import Capacity, MemoryBank
from segkit.models import build
from segkit.models.tracker import NO_OBJECT, ObjectPrompt, Tracker
from segkit.typing import Prompts


@pytest.fixture(scope="module")
def tracker() -> Tracker:
    return build.sam2_test.tracker().eval()


@pytest.fixture(scope="module")
def features(tracker):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        return [tracker.encode(torch.rand(1, 3, 64, 96, generator=generator)) for _ in range(24)]


def click(row: float, column: float, label: int = 1, **options) -> ObjectPrompt:
    return ObjectPrompt(torch.tensor([[0.0, row, column]]), torch.tensor([label]), **options)


@torch.no_grad()
def run(tracker, features, prompts, bank=None):
    """Logits of every frame, of the objects in order."""
    bank, found = bank or MemoryBank(), []
    for index, one in enumerate(features):
        prediction, bank = tracker.step(one, prompts.get(index), bank)
        found.append(prediction)
    return found, bank


def test_bounded_bank_equals_keeping_everything(tracker, features) -> None:
    prompts = {0: {1: click(20, 30)}, 5: {2: click(40, 60)}}
    bounded, small = run(tracker, features, prompts)
    everything = MemoryBank(capacity=Capacity(prompted=99, maps=6, pointers=15))
    unbounded, _ = run(tracker, features, prompts, everything)
    for one, other in zip(bounded, unbounded, strict=True):
        torch.testing.assert_close(one.logits, other.logits, atol=1e-5, rtol=1e-5)
    assert max(len(one.recent) for one in small.objects) == 16


def test_objects_in_one_batch_equal_each_alone(tracker, features) -> None:
    together, _ = run(tracker, features[:10], {0: {1: click(20, 30)}, 3: {2: click(40, 60)}})
    alone, _ = run(tracker, features[3:10], {0: {2: click(40, 60)}}, MemoryBank(frame=3))
    for one, other in zip(together[3:], alone, strict=True):
        torch.testing.assert_close(one[[2]].logits, other.logits, atol=1e-4, rtol=1e-4)


def test_a_new_object_waits_for_its_prompt(tracker, features) -> None:
    found, bank = run(tracker, features[:2], {0: {1: click(20, 30)}}, MemoryBank().add([9]))
    assert found[0].ids == (9, 1)
    assert (found[1][[9]].logits == NO_OBJECT).all()
    assert not bank.has_memory(9)


def test_previous_logits_change_a_second_click(tracker, features) -> None:
    first, bank = tracker.interact(features[0], {1: click(20, 30)}, MemoryBank())
    two = torch.tensor([[0.0, 20, 30], [0, 40, 60]]), torch.tensor([1, 0])
    fresh, _ = tracker.interact(features[0], {1: ObjectPrompt(*two, sees_memory=False)}, bank)
    refined, _ = tracker.interact(
        features[0], {1: ObjectPrompt(*two, previous=first.logits[0], sees_memory=False)}, bank
    )
    assert not torch.allclose(fresh.raw, refined.raw)


def test_mask_prompts_are_taken_as_they_are(tracker, features) -> None:
    mask = torch.zeros(64, 96, dtype=torch.bool)
    mask[16:48, 20:60] = True
    found, bank = tracker.interact(features[0], {3: ObjectPrompt(mask=mask)}, MemoryBank())
    assert (found.logits[0, 0, 6:10, 8:12] > 9).all()
    assert found.score.item() == 10
    empty, _ = tracker.interact(
        features[0], {3: ObjectPrompt(mask=torch.zeros_like(mask))}, MemoryBank()
    )
    torch.testing.assert_close(empty.pointers, tracker.memory.no_obj_ptr)
    with pytest.raises(InputError, match=r"must have the size \(64, 96\) of the model input"):
        tracker.interact(features[0], {3: ObjectPrompt(mask=mask[:32])}, bank)


def test_clips_of_a_batch_do_not_see_each_other(tracker) -> None:
    images = torch.rand(3, 2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    points = torch.tensor([[[0.0, 20, 30]], [[0, 40, 10]]])
    marks = Prompts(points, torch.ones(2, 1, dtype=torch.long))
    with torch.no_grad():
        bank, lone = MemoryBank(), MemoryBank()
        for step, image in enumerate(images):
            both, bank = tracker.step(tracker.encode(image), marks if not step else None, bank)
            alone = Prompts(points[1:], torch.ones(1, 1, dtype=torch.long)) if not step else None
            one, lone = tracker.step(tracker.encode(image[1:]), alone, lone)
            torch.testing.assert_close(both.logits[1:], one.logits, atol=1e-4, rtol=1e-4)


def test_gradient_flows_through_the_memory(tracker, features) -> None:
    bank = MemoryBank(rounds=False)
    coarse = features[0].levels[-1].clone().requires_grad_()
    first = type(features[0])((*features[0].levels[:-1], coarse), features[0].grid)
    _, bank = tracker.step(first, {1: click(20, 30)}, bank)
    later, _ = tracker.step(features[1], None, bank)
    later.raw.sum().backward()
    assert coarse.grad is not None
    assert coarse.grad.abs().sum() > 0


def test_faults_are_explained(tracker, features) -> None:
    with pytest.raises(InputError, match="there is no object to track"):
        tracker.step(features[0], None, MemoryBank())
    with pytest.raises(InputError, match=r"needs points .* or a mask, not both and not neither"):
        ObjectPrompt()
    with pytest.raises(ValueError, match="needs the mask decoder of SAM 2, got MaskDecoder"):
        Tracker(build.sam_tiny(checkpoint="random"), tracker.memory)
