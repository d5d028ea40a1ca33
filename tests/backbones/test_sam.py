import dataclasses

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn

from segkit.adapters import Adapter
from segkit.backbones.sam import SamBackbone
from segkit.backbones.sam_modules import NANO, TINY, VIT_B, VIT_H, VIT_L, SamModules, SamSizes
from segkit.typing import Grid


def images(n: int = 2, h: int = 64, w: int = 64) -> Tensor:
    return torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(0))


def grid(h: int = 64, w: int = 64) -> Grid:
    return Grid((1, h, w))


def random_encoder(sizes: SamSizes) -> ImageEncoderViT:
    torch.manual_seed(1)
    encoder = SamModules(sizes).image_encoder
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.1)
    return encoder


@pytest.fixture(scope="module")
def encoder() -> ImageEncoderViT:
    return random_encoder(TINY)


def test_eager_equals_upstream_bit_for_bit(encoder: ImageEncoderViT) -> None:
    mean = torch.tensor([123.675, 116.28, 103.53]).view(-1, 1, 1)
    std = torch.tensor([58.395, 57.12, 57.375]).view(-1, 1, 1)
    backbone = SamBackbone(encoder, TINY, Adapter, attention="eager")
    (level,) = backbone(images(), grid()).levels
    expected = encoder((images() * 255 - mean) / std)
    torch.testing.assert_close(level, expected, rtol=0, atol=0)


@pytest.mark.parametrize("is_trained", [True, False])
@pytest.mark.parametrize("rel_pos", [True, False])
@pytest.mark.parametrize("size", [(64, 64), (48, 80), (8, 120), (128, 128)])
def test_fused_attention_equals_eager(
    rel_pos: bool, size: tuple[int, int], is_trained: bool
) -> None:
    sizes = dataclasses.replace(TINY, rel_pos=rel_pos)
    encoder = random_encoder(sizes)
    fused, eager = (
        SamBackbone(encoder, sizes, Adapter, attention=path, trainable=is_trained)(
            images(2, *size), grid(*size)
        )
        for path in ("sdpa", "eager")
    )
    assert fused.levels[0].shape == (2, 32, size[0] // 8, size[1] // 8)
    scale = eager.levels[0].abs().max()
    assert (fused.levels[0] - eager.levels[0]).abs().max() <= 1e-5 * scale


def test_fused_attention_has_the_gradients_of_eager(encoder: ImageEncoderViT) -> None:
    gradients = []
    for path in ("sdpa", "eager"):
        backbone = SamBackbone(encoder, TINY, Adapter, attention=path, trainable=True)
        backbone(images(), grid()).levels[0].square().mean().backward()
        gradients.append({k: p.grad for k, p in encoder.named_parameters()})
        encoder.zero_grad()
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[1].items():
        torch.testing.assert_close(
            gradients[0][name], expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max())
        )


def test_checkpointing_changes_neither_values_nor_gradients(encoder: ImageEncoderViT) -> None:
    results = []
    for checkpointing in (False, True):
        backbone = SamBackbone(
            encoder, TINY, Adapter, trainable=True, checkpointing=checkpointing
        ).train()
        (level,) = backbone(images(), grid()).levels
        level.square().mean().backward()
        results.append((level.detach(), encoder.patch_embed.proj.weight.grad))
        encoder.zero_grad()
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


def test_checkpointing_keeps_less_for_the_backward_pass(encoder: ImageEncoderViT) -> None:
    kept = []
    for checkpointing in (False, True):
        backbone = SamBackbone(encoder, TINY, Adapter, trainable=True, checkpointing=checkpointing)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t
        ):
            backbone(images(), grid())
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 3


def test_no_tokens_by_tokens_matrix_is_kept_at_global_blocks() -> None:
    sizes = dataclasses.replace(TINY, depth=1, global_blocks=(0,))
    backbone = SamBackbone(random_encoder(sizes), sizes, Adapter, trainable=True)
    largest = 0

    def note(tensor: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        backbone(images(1, 256, 256), grid(256, 256))
    heads, tokens = sizes.heads, 32 * 32
    assert largest < heads * tokens * tokens / 4


def test_compiles_as_one_graph(encoder: ImageEncoderViT) -> None:
    backbone = SamBackbone(encoder, TINY, Adapter)
    compiled = torch.compile(backbone, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        expected = backbone(images(), grid()).levels
        torch.testing.assert_close(compiled(images(), grid()).levels, expected)


def test_bfloat16_stays_close(encoder: ImageEncoderViT) -> None:
    backbone = SamBackbone.tiny(Adapter)
    expected = backbone(images(), grid()).levels[0]
    (level,) = backbone.to(torch.bfloat16)(images(), grid()).levels
    assert level.dtype == torch.bfloat16
    assert (level.float() - expected).norm() < 0.05 * expected.norm()


def test_encoder_stays_in_eval_mode_unless_trainable(encoder: ImageEncoderViT) -> None:
    assert not SamBackbone(encoder, TINY, Adapter).train().encoder.training
    assert SamBackbone(encoder, TINY, Adapter, trainable=True).train().encoder.training


def test_pad_value_normalises_to_zero() -> None:
    backbone = SamBackbone.tiny(Adapter)
    image = torch.tensor(backbone.pad_value).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    assert backbone.normalise(image).abs().max() < 1e-5


def test_spec_of_the_official_sizes() -> None:
    with torch.device("meta"):
        encoder = SamModules(VIT_B).image_encoder
    spec = SamBackbone(encoder, VIT_B, Adapter).spec
    assert (spec.name, spec.image_size, spec.patch_size) == ("sam_vit_b", 1024, 16)
    assert (len(spec.blocks), spec.blocks[0].dim_out, spec.out_dim, spec.out_stride) == (
        12,
        768,
        256,
        16,
    )


@pytest.mark.parametrize(
    ("sizes", "parameters"),
    [(VIT_B, 89_670_912), (VIT_L, 308_278_272), (VIT_H, 637_026_048)],
    ids=lambda value: getattr(value, "name", None),
)
def test_parameter_counts_of_the_official_encoders(sizes: SamSizes, parameters: int) -> None:
    with torch.device("meta"):
        encoder = SamModules(sizes).image_encoder
    assert sum(p.numel() for p in encoder.parameters()) == parameters


def test_nano_runs_without_relative_positions() -> None:
    sizes = dataclasses.replace(NANO, depth=2, global_blocks=(1,))
    (level,) = SamBackbone(random_encoder(sizes), sizes, Adapter)(images(1), grid()).levels
    assert level.shape == (1, sizes.out_dim, 4, 4)


def test_tiny_is_the_same_each_time_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = SamBackbone.tiny(Adapter), SamBackbone.tiny(Adapter)
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)


def test_wrong_arguments_are_refused(encoder: ImageEncoderViT) -> None:
    with pytest.raises(ValueError, match=r"attention must be one of .*'sdpa'.*got 'flash'"):
        SamBackbone(encoder, TINY, Adapter, attention="flash")  # type: ignore[arg-type]
    backbone = SamBackbone(encoder, TINY, Adapter)
    with pytest.raises(ValueError, match="multiples of 8, got 60 x 64; pad the image"):
        backbone(images(1, 60, 64), Grid((1, 60, 64)))
    with pytest.raises(ValueError, match="depth 3 must hold a multiple of that many slices, got 2"):
        backbone(images(2), Grid((3, 64, 64)))
