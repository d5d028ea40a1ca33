import pytest
import torch

from segkit.memory import MemoryBank, MemorySizes, Sam2Memory
from segkit.memory.attention_cpu import can_run

DIM, MEMORY, SIZE = 32, 16, (4, 6)


@pytest.fixture(scope="module")
def memory() -> Sam2Memory:
    torch.manual_seed(0)
    built = Sam2Memory(MemorySizes(dim=DIM, memory_dim=MEMORY, layers=2, mlp_dim=48)).eval()
    for name, parameter in built.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    return built


def _recollections(memory: Sam2Memory, counts: tuple[int, ...]):
    generator = torch.Generator().manual_seed(1)
    bank = MemoryBank(rounds=False).add(range(len(counts)))
    for one, count in enumerate(counts):
        for frame in range(9 - count, 9):
            maps = torch.randn(1, SIZE[0] * SIZE[1], MEMORY, generator=generator)
            pointers = torch.randn(1, DIM, generator=generator)
            first = frame == 9 - count
            bank = bank.at(frame).remember([one], maps, pointers, is_prompted=first)
    return bank.at(9).recollect(range(len(counts)))


@pytest.mark.parametrize("counts", [(3, 3, 3), (1, 8, 4)])
def test_the_same_as_with_gradients(memory, counts) -> None:
    images = torch.randn(2, DIM, *SIZE, generator=torch.Generator().manual_seed(2))
    recollections, index = _recollections(memory, counts), torch.tensor([1, 0, 1])
    before = {name: tensor.clone() for name, tensor in memory.state_dict().items()}
    wanted = memory.attend(images, recollections, index).detach()
    with torch.no_grad():
        found = memory.attend(images, recollections, index)
        again = memory.attend(images, recollections, index)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    # it works in place on what it has made itself, and on nothing else
    torch.testing.assert_close(again, found, atol=0, rtol=0)
    assert all(torch.equal(before[name], now) for name, now in memory.state_dict().items())


def test_masks_are_encoded_alike_with_and_without_gradient(memory) -> None:
    images, masks = torch.randn(2, DIM, *SIZE), torch.rand(3, 1, 64, 96)
    index = torch.tensor([0, 1, 1])
    wanted = memory.encode(images, masks, None, index).detach()
    with torch.no_grad():
        found = memory.encode(images, masks, None, index)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_only_without_gradient_in_float32_and_in_evaluation() -> None:
    x = torch.zeros(1)
    assert not can_run(x, is_training=False)
    with torch.no_grad():
        assert can_run(x, is_training=False)
        assert not can_run(x, is_training=True)
        assert not can_run(x.double(), is_training=False)


def test_autocast_takes_the_usual_way(memory) -> None:
    images = torch.randn(2, DIM, *SIZE, generator=torch.Generator().manual_seed(2))
    recollections, index = _recollections(memory, (3, 3, 3)), torch.tensor([1, 0, 1])
    with torch.no_grad():
        wanted = memory.attend(images, recollections, index)
        with torch.autocast("cpu", torch.bfloat16):
            found = memory.attend(images, recollections, index)
    torch.testing.assert_close(found.float(), wanted, atol=0.1, rtol=0.1)
    assert not torch.equal(found.float(), wanted)
