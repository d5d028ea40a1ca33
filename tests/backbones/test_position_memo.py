"""The position embedding of SAM 2 is kept where nothing can have changed it, and nowhere else."""

import copy
import pickle
import threading

import pytest
import torch
from torch import nn

from segkit.adapters import Adapter, DepthwiseDilated
from segkit.backbones import position_memo
from segkit.backbones.position_memo import PositionMemo, resized
from segkit.backbones.sam2 import Sam2Backbone
from segkit.typing import Grid

SIZE = (16, 24)


@pytest.fixture
def weights():
    torch.manual_seed(0)
    shapes = ((1, 32, 3, 3), (1, 32, 8, 8))
    return [nn.Parameter(torch.randn(shape), requires_grad=False) for shape in shapes]


@pytest.fixture
def made(monkeypatch):
    """Sizes for which a table was made."""
    sizes = []

    def counting(background, window, size):
        sizes.append(size)
        return resized(background, window, size)

    monkeypatch.setattr(position_memo, "resized", counting)
    return sizes


def test_it_is_made_once_and_equal_bit_for_bit(weights, made):
    memo = PositionMemo()
    first, second = memo(*weights, SIZE), memo(*weights, SIZE)
    assert first is second
    assert made == [SIZE]
    assert first.is_contiguous()
    assert torch.equal(first, resized(*weights, SIZE))


def test_two_sizes_are_kept(weights, made):
    memo = PositionMemo()
    for size in ((8, 8), SIZE, (8, 8), (16, 16), (8, 8), SIZE):
        assert torch.equal(memo(*weights, size), resized(*weights, size))
    # the third size took the place of the one that was not seen for longest
    assert made == [(8, 8), SIZE, (16, 16), SIZE]


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("change", ["write", "load", "data", "dtype"])
def test_a_changed_weight_makes_it_anew(weights, which, change):
    memo, weight = PositionMemo(), weights[which]
    before = memo(*weights, SIZE)
    if change == "write":
        with torch.no_grad():
            weight.add_(1)
    elif change == "load":
        holder = nn.Module()
        holder.one = weight
        holder.load_state_dict({"one": weight + 1})
    elif change == "data":
        weight.data = weight.data + 1
    else:
        for one in weights:
            one.data = one.data.double()
    after = memo(*weights, SIZE)
    assert torch.equal(after, resized(*weights, SIZE))
    assert change == "dtype" or not torch.equal(before, after)


def test_another_weight_at_the_place_of_the_first_is_another(weights):
    memo = PositionMemo()
    store = torch.zeros(1, 32, 3, 3)
    memo(nn.Parameter(store, requires_grad=False), weights[1], SIZE)
    store.data.fill_(1)  # unseen by the counter of versions
    again = nn.Parameter(store, requires_grad=False)
    assert torch.equal(memo(again, weights[1], SIZE), resized(again, weights[1], SIZE))


def test_trained_weights_are_read_every_time_and_get_a_gradient(weights, made):
    memo = PositionMemo()
    weights[0].requires_grad_(True)
    for _ in range(2):
        memo(*weights, SIZE).sum().backward()
    assert len(made) == 2
    assert weights[0].grad.abs().sum() > 0
    with torch.no_grad():
        memo(*weights, SIZE)
    assert len(made) == 3


def test_what_inference_mode_made_serves_training(made):
    torch.manual_seed(0)
    backbone = Sam2Backbone.tiny(DepthwiseDilated)
    image, grid = torch.rand(1, 3, 64, 96), Grid((1, 64, 96))
    with torch.inference_mode():
        expected = backbone(image, grid).levels[-1].clone()
    levels = backbone(image, grid).levels
    levels[-1].sum().backward()
    assert torch.equal(levels[-1], expected)
    assert made == [(16, 24)]
    assert any(p.grad is not None for p in backbone.adapter.parameters())


def test_recorded_programs_hold_the_weights(weights, made):
    memo = PositionMemo()
    memo(*weights, SIZE)
    module = nn.Module()
    module.forward = lambda background, window: memo(background, window, SIZE)
    program = torch.export.export(module, tuple(weights)).module()
    other = [weight + 1 for weight in weights]
    torch.testing.assert_close(program(*other), resized(*other, SIZE))
    compiled = torch.compile(lambda *pair: memo(*pair, SIZE), backend="eager", fullgraph=True)
    with torch.no_grad():
        weights[0].add_(1)
        assert torch.equal(compiled(*weights), resized(*weights, SIZE))


def test_it_is_no_part_of_the_state_and_not_copied():
    backbone = Sam2Backbone.tiny(Adapter)
    keys = set(backbone.state_dict())
    with torch.no_grad():
        levels = backbone(torch.ones(1, 3, 64, 64), Grid((1, 64, 64))).levels
    assert set(backbone.state_dict()) == keys
    assert len(backbone._positions._tables) == 1
    for twin in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        assert not twin._positions._tables
        with torch.no_grad():
            found = twin(torch.ones(1, 3, 64, 64), Grid((1, 64, 64))).levels
        assert all(map(torch.equal, found, levels))


def test_threads_of_unequal_sizes_get_their_own(weights):
    memo, wrong = PositionMemo(), []

    def work(size):
        wanted = resized(*weights, size)
        wrong.extend(size for _ in range(40) if not torch.equal(memo(*weights, size), wanted))

    threads = [threading.Thread(target=work, args=(size,)) for size in ((8, 8), (8, 16), (16, 8))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
