import open_clip
import pytest
import torch
from open_clip.timm_model import TimmModel
from torch import nn

from segkit.errors import InputError
from segkit.text.towers import ClipTower, TimmTower, tower_of


def timm_visual():
    torch.manual_seed(0)
    return TimmModel("vit_tiny_patch16_224", 16, image_size=224, pool="", proj="linear").eval()


def clip_visual(pool):
    torch.manual_seed(0)
    vision = {
        "image_size": 32, "patch_size": 8, "width": 32, "layers": 3, "head_width": 16,
        "pool_type": pool,
    }  # fmt: skip
    text = {"context_length": 8, "vocab_size": 20, "width": 32, "heads": 2, "layers": 1}
    return open_clip.model.CLIP(16, vision, text).visual.eval()


@pytest.mark.parametrize("pool", ["tok", "avg"])
@torch.inference_mode()
def test_start_blocks_and_end_equal_the_encoder_of_open_clip(pool):
    visual, images = clip_visual(pool), torch.rand(2, 3, 32, 32)
    tower = tower_of(visual)
    assert isinstance(tower, ClipTower)
    assert tower.grid == (4, 4)
    assert torch.allclose(tower(images), visual(images), atol=1e-6)
    tokens = tower.run(tower.embed(images), 0, 2)
    assert tokens.shape == (2, 17, 32)
    assert torch.allclose(tower.head(tower.run(tokens, 2, 3)), visual(images), atol=1e-6)


@torch.inference_mode()
def test_start_blocks_and_end_equal_the_encoder_of_timm():
    visual, images = timm_visual(), torch.rand(1, 3, 224, 224)
    tower = tower_of(visual)
    assert isinstance(tower, TimmTower)
    assert (tower.grid, tower.prefix, len(tower.blocks)) == ((14, 14), 1, 12)
    assert torch.allclose(tower(images), visual(images), atol=1e-5)


def test_other_image_encoders_are_refused():
    with pytest.raises(InputError, match="need a vision transformer, got Linear"):
        tower_of(nn.Linear(2, 2))
