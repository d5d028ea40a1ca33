import math

import pytest
import torch

from segkit.errors import InputError
from segkit.text.contrastive import DecoupledHardNegative, InfoNce

TAU, BETA = 0.6, 0.15


def golden_pair():
    k = torch.arange(128, dtype=torch.float64)
    return (torch.sin(0.11 * k + 0.5).reshape(8, 16), torch.sin(0.23 * k + 1.1).reshape(8, 16))


def by_the_paper(images, texts, tau=TAU, beta=BETA):
    """The equation term by term, without any trick."""
    unit = torch.nn.functional.normalize
    s = (unit(images, dim=1) @ unit(texts, dim=1).T / tau).tolist()
    size, total = len(s), 0.0
    for scores in (s, [list(column) for column in zip(*s, strict=True)]):
        for i in range(size):
            others = [j for j in range(size) if j != i]
            norm = sum(math.exp(beta * scores[i][k]) for k in others)
            inner = sum(
                (size - 1) * math.exp(beta * scores[i][j]) / norm * math.exp(scores[i][j])
                for j in others
            )
            total += (-scores[i][i] + math.log(inner)) / size
    return total


def test_equals_the_published_equation():
    images, texts = golden_pair()
    found = DecoupledHardNegative()(images, texts).item()
    assert found == pytest.approx(by_the_paper(images, texts), abs=1e-12)
    assert found == pytest.approx(5.2484652966, abs=1e-9)


def test_authors_equals_the_released_code():
    found = DecoupledHardNegative(compat="authors")(*golden_pair()).item()
    assert found == pytest.approx(-1.0780792702, abs=1e-9)


def test_without_hardness_all_negatives_weigh_alike():
    images, texts = golden_pair()
    found = DecoupledHardNegative(TAU, 0.0, beta_text=0.0)(images, texts).item()
    assert found == pytest.approx(by_the_paper(images, texts, beta=0.0), abs=1e-12)


def gradient_on_negatives(compat):
    """Scores of the negatives of random features, and the derivative of the loss by each."""
    generator = torch.Generator().manual_seed(0)
    images, texts = (torch.randn(16, 32, generator=generator).double() for _ in range(2))
    unit = torch.nn.functional.normalize
    scores = (unit(images) @ unit(texts).T / TAU).requires_grad_()
    (slope,) = torch.autograd.grad(DecoupledHardNegative(compat=compat).of_scores(scores), scores)
    off = ~torch.eye(16, dtype=torch.bool)
    return scores.detach()[off], slope[off]


def test_hard_negatives_are_pushed_apart_more():
    scores, slope = gradient_on_negatives(None)
    assert torch.corrcoef(torch.stack([scores, slope]))[0, 1] > 0.9
    assert slope[scores.argmax()] > 0.005  # going down the slope lowers this score


def test_the_released_code_pulls_the_hardest_negative_closer():
    scores, slope = gradient_on_negatives("authors")
    assert torch.corrcoef(torch.stack([scores, slope]))[0, 1] < -0.9
    assert slope[scores.argmax()] < 0


def test_gradient_equals_finite_differences():
    images, texts = golden_pair()
    loss = DecoupledHardNegative()
    assert torch.autograd.gradcheck(loss, (images.requires_grad_(), texts.requires_grad_()))


def test_length_of_the_vectors_does_not_matter():
    images, texts = golden_pair()
    loss = DecoupledHardNegative()
    assert torch.allclose(loss(images, texts), loss(3 * images, 0.2 * texts))


def test_info_nce_is_the_cross_entropy_of_clip():
    images, texts = golden_pair()
    unit = torch.nn.functional.normalize
    scores = 10 * unit(images) @ unit(texts).T
    wanted = -0.5 * (
        torch.log_softmax(scores, 1).diagonal().mean()
        + torch.log_softmax(scores, 0).diagonal().mean()
    )
    assert torch.allclose(InfoNce()(images, texts, torch.tensor(10.0)), wanted)


@pytest.mark.parametrize("sizes", [(1, 1), (3, 4)])
def test_too_few_or_unequal_pairs_are_refused(sizes):
    with pytest.raises(InputError, match="as many texts as images"):
        DecoupledHardNegative()(torch.ones(sizes[0], 4), torch.ones(sizes[1], 4))


def test_bad_constants_are_refused():
    with pytest.raises(InputError, match="tau must be > 0"):
        DecoupledHardNegative(0.0)
    with pytest.raises(InputError, match="compat must be"):
        DecoupledHardNegative(compat="paper")
