from pathlib import Path

import pytest
import torch

from segkit.adapters import LoRA
from segkit.baselines.network import NetworkOptions
from segkit.data.preprocess import InputSpec
from segkit.errors import CheckpointError, InputError
from segkit.models import build
from segkit.models.files import load_adapter, save_adapter
from segkit.models.info import ModelInfo
from segkit.models.methods import describe
from segkit.models.supervised import SUPERVISED
from segkit.typing import Grid, Prompts

TINY = SUPERVISED["stu_net_tiny"]
BLOCK = InputSpec(channels="repeat", patch=(16, 16, 16))
SHALLOW = NetworkOptions(strides=[[2, 2, 2]] * 3)
GRID = Grid((16, 16, 16))


def volumes(count: int = 1, side: int = 16) -> torch.Tensor:
    return torch.rand(count * side, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("stu-net-s", 14_596_941),
        ("stu-net-b", 58_262_669),
        ("stu-net-l", 440_302_605),
        ("stu-net-h", 1_457_326_221),
    ],
)
def test_published_sizes_are_described_without_weights(name: str, total: int) -> None:
    found = describe(name, compat="authors")
    assert (found.parameters.total, found.parameters.trainable) == (total, total)


@torch.no_grad()
def test_volumes_are_segmented_one_by_one() -> None:
    segmenter = TINY(classes=2, network=SHALLOW).eval()
    both = segmenter(volumes(2), grid=GRID)
    assert both.logits.shape == (2, 2, 16, 16, 16)
    second = segmenter(volumes(2)[16:], grid=GRID)
    torch.testing.assert_close(both.logits[1:], second.logits, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_pictures_are_segmented() -> None:
    prediction = build.unet_2d(classes=1).eval()(torch.rand(2, 3, 32, 64))
    assert prediction.logits.shape == (2, 1, 32, 64)


@torch.no_grad()
def test_brightness_and_contrast_do_not_matter() -> None:
    segmenter, image = TINY(classes=1, network=SHALLOW).eval(), volumes()
    shifted = segmenter(0.3 * image + 0.2, grid=GRID).logits
    torch.testing.assert_close(shifted, segmenter(image, grid=GRID).logits, rtol=1e-3, atol=1e-4)


def test_a_file_restores_network_strides_and_every_weight(tmp_path: Path) -> None:
    options = NetworkOptions(strides=[[1, 2, 2], [2, 2, 2]])
    segmenter = TINY(classes=2, network=options, checkpoint="random:3").eval()
    info = ModelInfo.of(segmenter, labels={1: "a", 2: "b"}, input=BLOCK)
    save_adapter(path := tmp_path / "adapter.safetensors", segmenter, info)
    other, found = load_adapter(path, checkpoint="weights it once started from")
    assert found.recipe.backbone.options == {"network": options.to_dict()}
    assert other.spec.patch_size == 4
    image, grid = torch.rand(4, 3, 8, 8), Grid((4, 8, 8))
    with torch.no_grad():
        assert other(image, grid=grid).logits.equal(segmenter(image, grid=grid).logits)


def test_fine_tuning_starts_from_the_body_with_new_heads(tmp_path: Path) -> None:
    source = TINY(classes=4, checkpoint="random:5")
    save_adapter(path := tmp_path / "a.safetensors", source, ModelInfo.of(source))
    target = TINY(classes=2, checkpoint=path)
    body = target.backbone.encoder.state_dict()
    assert all(body[name].equal(t) for name, t in source.backbone.encoder.state_dict().items())
    assert [head.out_channels for head in target.decoder.heads] == [3] * 5


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    source = build.unet_3d()
    save_adapter(path := tmp_path / "a.safetensors", source, ModelInfo.of(source))
    with pytest.raises(CheckpointError, match=r"a.safetensors: .* not those of this network"):
        TINY(checkpoint=path)


def test_adapters_partial_training_and_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="stu_net_tiny has no frozen blocks for LoRA"):
        TINY(adapter=LoRA)
    with pytest.raises(ValueError, match="trained as a whole"):
        TINY(trainable="decoder")
    click = Prompts(torch.zeros(1, 1, 3), torch.ones(1, 1, dtype=torch.int64))
    segmenter = TINY(network=SHALLOW)
    with pytest.raises(InputError, match="without prompts, got prompts"):
        segmenter(volumes(), click, GRID)
