import json

import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("open_clip", reason="needs segkit[text]")
pytest.importorskip("tokenizers", reason="needs segkit[text]")

from open_clip.timm_model import TimmModel

from segkit.backbones.checkpoints import file_sha256
from segkit.errors import CheckpointError, InputError
from segkit.models.text_encoder import load_text_encoder, save_text_encoder, sizes_of
from segkit.text.bert import BertClip, BertSizes, BertText
from segkit.text.bottleneck import saliency
from segkit.text.settings import SaliencySettings
from segkit.text.small import SmallSizes, build_small

SIZES = SmallSizes(image_size=16, width=32, heads=2, depth=2, features=8, text_width=32)
BERT = BertSizes(
    vocabulary=9, width=64, depth=1, mlp=32, positions=16, types=2, hidden=24, features=16
)
CONFIG = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {
            "timm_model_name": "vit_tiny_patch16_224",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": 224,
        },
        "text_cfg": {"hf_model_name": "someone/bert", "context_length": 16},
    },
    "preprocess_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]},
}


@pytest.fixture(scope="module")
def biomed():
    """A model of BiomedCLIP's layout with random weights."""
    torch.manual_seed(0)
    visual = TimmModel("vit_tiny_patch16_224", 16, image_size=224, pool="", proj="linear")
    return BertClip(visual, BertText(BERT)).eval()


@pytest.fixture
def folder(biomed, tmp_path):
    """Its folder as a hub publishes it."""
    (tmp_path / "open_clip_config.json").write_text(json.dumps(CONFIG))
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "brain", "tumor", "a", "of")
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    torch.save(biomed.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    return tmp_path


@torch.no_grad()
def test_a_biomedclip_folder_loads_as_it_is(folder, biomed):
    encoder = load_text_encoder(folder)
    assert not encoder.training
    assert (encoder.spec.mean, encoder.spec.std) == ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    assert encoder.spec.sha256 == file_sha256(folder / "open_clip_pytorch_model.bin")
    tokens = torch.tensor([[2, 7, 5, 6, 3] + 11 * [0]])
    wanted = torch.nn.functional.normalize(biomed.encode_text(tokens), dim=-1)
    assert torch.allclose(encoder.encode_text(["a brain tumor"]), wanted, atol=1e-6)
    pixels = torch.rand(1, 3, 224, 224)
    image = torch.nn.functional.normalize(biomed.visual(pixels), dim=-1)
    assert torch.allclose(encoder.encode_image(pixels), image, atol=1e-5)
    assert encoder.spec.saliency.layer == 7  # of 12 blocks, as MedCLIP-SAMv2
    maps = saliency(encoder, pixels, wanted, SaliencySettings(layer=10, steps=1, copies=1))
    assert maps.shape == (1, 14, 14)


def test_safetensors_come_before_torch_files(folder, biomed):
    save_file(
        {name: tensor + 0 for name, tensor in biomed.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    (folder / "open_clip_pytorch_model.bin").write_bytes(b"never read")
    sha256 = file_sha256(folder / "open_clip_model.safetensors")
    assert load_text_encoder(folder).spec.sha256 == sha256


def test_training_states_with_prefixes_are_read(folder, biomed):
    content = {
        "epoch": 3,
        "name": "run",
        "state_dict": {f"module.{name}": value for name, value in biomed.state_dict().items()},
        "optimizer": {"state": {}, "param_groups": []},
    }
    torch.save(content, folder / "epoch_3.pt")
    encoder = load_text_encoder(folder, checkpoint=folder / "epoch_3.pt")
    assert torch.equal(encoder.model.text.proj[0].weight, biomed.text.proj[0].weight)


def test_missing_and_extra_keys_are_refused(folder, biomed):
    state = dict(biomed.state_dict())
    state["visual.trunk.extra"] = state.pop("visual.trunk.norm.weight")
    torch.save(state, folder / "open_clip_pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"1 missing: visual\.trunk\.norm\.weight.*1 unexp"):
        load_text_encoder(folder)


def test_code_in_a_file_is_refused(folder):
    torch.save({"state_dict": print}, folder / "open_clip_pytorch_model.bin")
    with pytest.raises(CheckpointError, match="which is no weight"):
        load_text_encoder(folder)


@pytest.mark.parametrize(
    "change", [{"timm_model_name": "hf-hub:x/y"}, {"timm_model_pretrained": True}]
)
def test_a_configuration_cannot_make_it_ask_a_hub(folder, change):
    config = json.loads(json.dumps(CONFIG))
    config["model_cfg"]["vision_cfg"] |= change
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="asks for weights from a hub"):
        load_text_encoder(folder)


def test_missing_files_are_named_with_their_source(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGKIT_HOME", str(tmp_path))
    with pytest.raises(
        CheckpointError,
        match=r"lacks open_clip_config\.json; download .*vocab\.txt from https://.*BiomedCLIP.* "
        r"and put them into .*models/biomedclip",
    ):
        load_text_encoder("biomedclip")
    (tmp_path / "open_clip_config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(CheckpointError, match=r"lacks open_clip_model\.safetensors or"):
        load_text_encoder(tmp_path)
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is not a configuration of open_clip"):
        load_text_encoder(tmp_path)


def test_a_folder_is_written_again(folder, tmp_path):
    encoder = load_text_encoder(folder)
    out = tmp_path / "copy"
    digest = save_text_encoder(encoder, out, folder=folder)
    again = load_text_encoder(out)
    assert again.spec.sha256 == digest
    for name, tensor in encoder.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor), name


def test_a_small_model_is_one_file(tmp_path):
    encoder = build_small(SIZES, ("bright", "ring"), seed=4, saliency={"layer": 0, "beta": 0.3})
    assert sizes_of(encoder) == SIZES
    path = tmp_path / "small.safetensors"
    digest = save_text_encoder(encoder, path, sizes=SIZES)
    again = load_text_encoder(path)
    assert again.spec.sha256 == digest
    assert again.spec.saliency == encoder.spec.saliency
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(again(images, ["bright ring"]), encoder(images, ["bright ring"]))


def test_other_safetensors_are_refused(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="is not a text encoder that segkit wrote"):
        load_text_encoder(tmp_path / "x.safetensors")


def test_names_of_open_clip_need_a_checkpoint():
    with pytest.raises(CheckpointError, match="ViT-B-16 does not ship with segkit"):
        load_text_encoder("ViT-B-16")
    with pytest.raises(InputError, match="no text encoder 'ViT-B-61'"):
        load_text_encoder("ViT-B-61")
    with pytest.raises(InputError, match="no text encoder 'hf-hub:x/y'"):
        load_text_encoder("hf-hub:x/y", checkpoint="x.pt")


def test_saving_needs_one_kind(tmp_path):
    encoder = build_small(SIZES, ("ring",))
    with pytest.raises(InputError, match="not both"):
        save_text_encoder(encoder, tmp_path / "x.safetensors")
