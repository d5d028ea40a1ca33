import pytest
import torch

from segkit.kernels import narrow_attention as module


@pytest.mark.parametrize("masked", [False, True])
def test_narrow_sum_equals_the_definition(masked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 1100, 16, generator=generator)
    key = torch.randn(2, 1300, 16, generator=generator) * 3
    source = torch.randn(2, 1300, 4, generator=generator)
    value = (torch.randn(16, 4, generator=generator), torch.randn(16, generator=generator))
    mask = torch.rand(2, 1300, generator=generator) > 0.4 if masked else None
    with torch.no_grad():
        got = module.narrow_attention(query, key, source, value, mask=mask)
    want = module.reference(query, key, source, value, mask=mask)
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-5)


def test_gradients_take_the_definition() -> None:
    query = torch.randn(1, 1024, 8, requires_grad=True)
    key, source = torch.randn(1, 64, 8), torch.randn(1, 64, 4)
    value = (torch.randn(8, 4), torch.randn(8))
    module.narrow_attention(query, key, source, value).sum().backward()
    assert query.grad is not None
