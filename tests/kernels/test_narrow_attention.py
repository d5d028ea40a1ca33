import pytest
import torch

from segkit.kernels import narrow_attention as module


def _case(spread: float) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = ((1100, 16), (1300, 16), (1300, 4))
    query, key, source = (torch.randn(size, generator=generator) for size in sizes)
    return [query, spread * key, source]


def test_sums_equal_the_definition() -> None:
    found, wanted = module.narrow_sums(*_case(3.0)), module.reference(*_case(3.0))
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-5)


def test_fewer_keys_than_a_block() -> None:
    query, key, source = _case(1.0)
    found = module.narrow_sums(query[:5], key[:7], source[:7])
    torch.testing.assert_close(found, module.reference(query[:5], key[:7], source[:7]))


@pytest.mark.parametrize("last", [1e4, -1e4])
def test_scores_far_above_or_below_those_of_the_first_block(last: float) -> None:
    query, key, source = _case(1.0)
    key[-1] = last * query[0]
    found = module.narrow_sums(query, key, source)
    assert found.isfinite().all()
    torch.testing.assert_close(found, module.reference(query, key, source), atol=2e-5, rtol=1e-5)
