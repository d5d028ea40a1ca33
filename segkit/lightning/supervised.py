"""Train a U-Net with its loss at every resolution (deep supervision)."""

import torch
from torch import Tensor
from typing_extensions import override

from segkit.data.batches import ImageBatch
from segkit.decoders.linear import LinearDecoder
from segkit.lightning.automatic import AutomaticModule
from segkit.lightning.base import BatchPrediction


class SupervisedModule(AutomaticModule):
    """All classes in one pass; each coarser level of the decoder weighs half of the one before.

    Source: "nnU-Net" (Isensee et al., Nature Methods 2021). Difference: coarse logits are enlarged
    to the target instead of shrinking the target. Validation sees the finest level alone.
    """

    @override
    def predict_batch(self, batch: ImageBatch, generator: torch.Generator) -> BatchPrediction:
        decoder = self.segmenter.decoder
        if not self.training or not isinstance(decoder, LinearDecoder):
            return super().predict_batch(batch, generator)
        features = self.segmenter.encode(batch.image, batch.grid)
        # `label_maps` looks at the last round
        return BatchPrediction(decoder.every_level(features)[::-1], batch.mask)

    @override
    def total_loss(self, prediction: BatchPrediction) -> Tensor:
        losses = [self._round_loss(one, prediction.target) for one in prediction.rounds]
        weights = torch.tensor([0.5**level for level in range(len(losses))][::-1])
        weights = (weights / weights.sum()).to(losses[0])
        return (weights * torch.stack(losses)).sum()
