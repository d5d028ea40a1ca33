"""Where in an image is what a text says: saliency by an information bottleneck (M2IB).

Noise replaces what flows through one layer of the image encoder, token by token and channel by
channel, as far as the image still fits the text; what must pass is what the text is about.
"""

import warnings
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from segkit.errors import DataWarning, InputError
from segkit.text.contrastive import Compat
from segkit.text.encoder import TextImageEncoder, Vectors
from segkit.text.settings import SaliencySettings
from segkit.typing import Image

OPEN = 5.0
"""Start of the gate's logit: nearly everything passes."""
PAIRS_AT_ONCE = 4

Maps = Float[Tensor, "pairs rows cols"]
Codes = Float[Tensor, "pairs tokens dim"]


def saliency(
    encoder: TextImageEncoder,
    pixels: Image,
    texts: Vectors,
    settings: SaliencySettings | None = None,
    *,
    compat: Compat = None,
    vvar: float | None = None,
) -> Maps:
    """Information in nats that each patch must let pass so that image n fits text n.

    "Visual Explanations of Image-Text Representations via Multi-Modal Information Bottleneck
    Attribution" (NeurIPS 2023), as MedCLIP-SAMv2 uses it. With x the tokens behind `layer`,
    lambda = sigmoid(alpha) and noise e, z = lambda x + (1 - lambda) e replaces x, and Adam finds
    the alpha that minimises beta mean KL(z | x || N(0, 1)) - mean cos(image(z), text). A map is
    the sum of KL over the channels of a patch.

    Each pair is optimised on its own with the same noise, so a pair's map does not depend on its
    neighbours in the batch. Weights of the encoder get no gradient. Without `settings` those of the
    encoder hold.

    `compat="authors"` returns what the released code does: the KL of the gates before the last
    step of Adam, not after it. `vvar` is an option of the release that has no effect; it is
    accepted there and nowhere else.

    Args:
        encoder: in evaluation mode.
        pixels: prepared by `encoder.pixels`, one image per pair.
        texts: unit vectors, one per pair.
        settings: of the bottleneck.
        compat: see above.
        vvar: see above.

    Raises:
        InputError: Images and texts differ in number, the encoder has no such layer, or `vvar`
            comes without `compat`.
    """
    if vvar is not None:
        _check_vvar(compat)
    if len(pixels) != len(texts):
        raise InputError(f"got {len(pixels)} images and {len(texts)} texts; one text per image")
    if not len(pixels):
        return pixels.new_zeros(0, *encoder.tower.grid)
    settings = settings or encoder.spec.saliency
    settings = replace(settings, layer=layer_index(encoder, settings.layer))
    parts = [
        _few(encoder, images, vectors, settings, compat)
        for images, vectors in zip(
            pixels.split(PAIRS_AT_ONCE), texts.split(PAIRS_AT_ONCE), strict=True
        )
    ]
    return torch.cat(parts)


def layer_index(encoder: TextImageEncoder, layer: int) -> int:
    """Number of a block, counted from 0.

    Raises:
        InputError: There is none of that number.
    """
    depth = len(encoder.tower.blocks)
    if not -depth <= layer < depth:
        raise InputError(
            f"the image encoder has {depth} blocks, got layer {layer}",
            fix=f"choose -{depth} to {depth - 1}",
        )
    return layer % depth


def capacity(alpha: Codes, codes: Codes) -> Codes:
    """KL divergence of N(lambda x, (1 - lambda)^2) from N(0, 1) in nats; finite for every alpha."""
    log_variance = 2 * F.logsigmoid(-alpha)
    mean = torch.sigmoid(alpha) * codes
    return 0.5 * (mean.square() + log_variance.exp() - log_variance - 1)


def _few(
    encoder: TextImageEncoder,
    pixels: Image,
    texts: Vectors,
    settings: SaliencySettings,
    compat: Compat,
) -> Maps:
    tower, behind = encoder.tower, settings.layer + 1
    with torch.no_grad():
        tokens = tower.run(tower.embed(pixels), 0, behind)
    centre, spread = _noise_scale(tokens[:, tower.prefix :], settings)
    codes = (tokens - centre) / spread
    alpha = torch.full_like(codes, OPEN).requires_grad_()
    optimiser = torch.optim.Adam([alpha], lr=settings.rate)
    generator = torch.Generator().manual_seed(settings.seed)
    passed = codes
    with torch.enable_grad():
        for _ in range(settings.steps):
            shape = (settings.copies, 1, *codes.shape[1:])
            noise = torch.randn(shape, generator=generator, dtype=codes.dtype).to(codes.device)
            gate = torch.sigmoid(alpha)
            mixed = centre + spread * (gate * codes + (1 - gate) * noise)
            passed = capacity(alpha, codes)
            fit = _fit(encoder, mixed, texts, behind)
            loss = (settings.beta * passed.flatten(1).mean(1) - fit.mean(0)).sum()
            # only the gates: the encoder may be one that is being trained
            (alpha.grad,) = torch.autograd.grad(loss, alpha)
            optimiser.step()
    if compat != "authors":
        passed = capacity(alpha, codes)
    patches = passed.detach()[:, tower.prefix :].sum(-1)
    return patches.reshape(len(patches), *tower.grid)


def _fit(
    encoder: TextImageEncoder,
    mixed: Float[Tensor, "copies pairs tokens dim"],
    texts: Vectors,
    behind: int,
) -> Float[Tensor, "copies pairs"]:
    """Cosine of noisy images with their texts."""
    tower = encoder.tower
    images = tower.head(tower.run(mixed.flatten(0, 1), behind, len(tower.blocks)))
    return F.cosine_similarity(images.reshape(*mixed.shape[:2], -1), texts[None], dim=-1)


def _noise_scale(patches: Codes, settings: SaliencySettings) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the noise, per pair and channel."""
    if settings.noise == "unit":
        return patches.new_zeros(()), patches.new_ones(())
    return patches.mean(1, keepdim=True), patches.std(1, keepdim=True).clamp(min=1e-6)


def _check_vvar(compat: Compat) -> None:
    if compat != "authors":
        raise InputError("vvar has no effect on the result", fix="leave it out")
    warnings.warn(
        "vvar has no effect in the released code either; it is ignored", DataWarning, stacklevel=3
    )
