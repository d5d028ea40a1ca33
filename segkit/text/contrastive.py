"""Contrastive losses between images and texts."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from segkit.errors import InputError

Compat = Literal["authors"] | None


class DecoupledHardNegative(nn.Module):
    """DHN-NCE: a contrastive loss without the positive in the denominator, hard negatives first.

    MedCLIP-SAMv2 (arXiv 2409.19483). With s_ij = cos(image_i, text_j) / tau and B pairs,

        L = mean_i [ -s_ii + log sum_{j != i} w_ij exp(s_ij) ]  +  the same over texts,
        w_ij = (B - 1) exp(beta s_ij) / sum_{k != i} exp(beta s_ik).

    beta 0 weighs all negatives alike (decoupled contrastive learning). The gradient flows through
    the weights too.

    `compat="authors"` computes what the released code does: no sum over negatives but a mean over
    all B x B entries, the weights normalised without beta and with a one for the positive. Its
    gradient pulls the hardest negatives closer; it exists for parity only. B is the real batch.

    Raises:
        InputError: tau <= 0 or beta < 0.

    Example:
        >>> loss = DecoupledHardNegative()
        >>> round(loss(torch.eye(4), torch.eye(4)).item(), 3)
        -1.136
    """

    def __init__(
        self,
        tau: float = 0.6,
        beta_image: float = 0.15,
        *,
        beta_text: float = 0.15,
        compat: Compat = None,
    ) -> None:
        super().__init__()
        if tau <= 0 or beta_image < 0 or beta_text < 0:
            raise InputError(
                f"tau must be > 0 and beta >= 0, got {tau}, {beta_image} and {beta_text}"
            )
        if compat not in (None, "authors"):
            raise InputError(f"compat must be None or 'authors', got {compat!r}")
        self.tau, self.betas, self.compat = tau, (beta_image, beta_text), compat

    @override
    def forward(
        self, images: Float[Tensor, "b features"], texts: Float[Tensor, "b features"]
    ) -> Float[Tensor, ""]:
        """Loss of b pairs of feature vectors, of any length; b must be at least 2."""
        if len(images) != len(texts) or len(images) < 2:
            raise InputError(
                f"a contrastive loss needs as many texts as images, at least 2, got {len(texts)} "
                f"and {len(images)}"
            )
        unit = nn.functional.normalize
        return self.of_scores(unit(images, dim=-1) @ unit(texts, dim=-1).T / self.tau)

    def of_scores(self, scores: Float[Tensor, "b b"]) -> Float[Tensor, ""]:
        """Loss of the scores s_ij of image i and text j."""
        one_way = _released if self.compat == "authors" else _published
        image_beta, text_beta = self.betas
        return one_way(scores, image_beta) + one_way(scores.T, text_beta)


def _published(scores: Float[Tensor, "b b"], beta: float) -> Float[Tensor, ""]:
    """Equation of the paper, in the log domain: log w_ij is a difference of logarithms."""
    off = ~torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    negatives = scores[off].reshape(len(scores), -1)
    log_weights = math.log(negatives.shape[1]) + torch.log_softmax(beta * negatives, dim=1)
    return (torch.logsumexp(log_weights + negatives, dim=1) - scores.diagonal()).mean()


def _released(scores: Float[Tensor, "b b"], beta: float) -> Float[Tensor, ""]:
    """Closed form of the released code; masked entries count as exp(0)."""
    off = 1 - torch.eye(len(scores), dtype=scores.dtype, device=scores.device)
    norm = torch.log1p((scores.exp() * off).sum(dim=1, keepdim=True))
    weights = math.log(len(scores) - 1) + (1 + beta) * scores * off - norm
    return (weights - torch.diag(scores.diagonal())).mean()


class InfoNce(nn.Module):
    """The loss of CLIP: cross-entropy of the right text among all, and of the right image.

    `scale` is the inverse temperature, a learned number there.
    """

    @override
    def forward(
        self,
        images: Float[Tensor, "b features"],
        texts: Float[Tensor, "b features"],
        scale: Float[Tensor, ""],
    ) -> Float[Tensor, ""]:
        unit = nn.functional.normalize
        scores = scale * unit(images, dim=-1) @ unit(texts, dim=-1).T
        right = torch.arange(len(scores), device=scores.device)
        entropy = nn.functional.cross_entropy
        return 0.5 * (entropy(scores, right) + entropy(scores.T, right))
