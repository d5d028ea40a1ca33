"""The two-way transformer with fewer operations: same values, same gradients."""

import pytest
import torch

from segkit.backbones.sam_modules import TINY, SamModules
from segkit.decoders.mask import MaskDecoder
from segkit.typing import Features, Grid, PromptTokens


def inputs(rows: int, cols: int, objects: int) -> tuple[Features, PromptTokens]:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        return values.requires_grad_()

    features = Features((draw(1, 32, rows, cols),), Grid((1, 8 * rows, 8 * cols)))
    sparse, dense = draw(objects, 3, 32), draw(objects, 32, rows, cols)
    return features, PromptTokens(sparse, dense, draw(1, 32, rows, cols))


@pytest.mark.parametrize(("rows", "cols", "objects"), [(8, 8, 1), (5, 3, 2), (1, 7, 3)])
def test_values_and_gradients_equal_the_official_modules(
    rows: int, cols: int, objects: int
) -> None:
    torch.manual_seed(0)
    module = SamModules(TINY).mask_decoder.double()
    results = []
    for attention in ("eager", "sdpa"):
        module.zero_grad()
        features, tokens = inputs(rows, cols, objects)
        prediction = MaskDecoder(module, attention=attention).every_mask(features, tokens)
        (prediction.logits.square().sum() + prediction.iou.square().sum()).backward()
        given = (features.levels[0], tokens.sparse, tokens.dense, tokens.positions)
        gradients = [tensor.grad for tensor in given]
        gradients += [parameter.grad.clone() for parameter in module.parameters()]
        results.append([prediction.logits.detach(), prediction.iou.detach(), *gradients])
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-11)
