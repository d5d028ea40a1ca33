"""Read and write vision-language encoders: shipped, in a folder, or an `open_clip` model by name.

Nothing is fetched and nothing is unpickled: weights are safetensors, or torch files that hold
tensors only.
"""

import json
import re
import shutil
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segkit.backbones.checkpoints import load_strictly, read_weights, write_safetensors
from segkit.errors import CheckpointError, InputError
from segkit.models.weights import home_folder
from segkit.text.bert import BertClip, BertSizes, BertText
from segkit.text.encoder import EncoderSpec, TextImageEncoder
from segkit.text.extra import import_open_clip
from segkit.text.port_keys import to_open_clip
from segkit.text.settings import SaliencySettings
from segkit.text.small import SmallSizes, build_small
from segkit.text.wordpiece import FILES, WordPieceTokenizer
from segkit.text.words import WordTokenizer

SHIPPED = ("nano_clip",)
CONFIG = "open_clip_config.json"
WEIGHT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
KEPT = {"biomedclip": "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"}
"""Names for folders below `$SEGKIT_HOME/models`, and where their files are published."""
HEADER = "segkit_text"
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.-]+")


def load_text_encoder(
    source: str | Path = "nano_clip",
    *,
    checkpoint: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> TextImageEncoder:
    """Load an encoder, in evaluation mode.

    Args:
        source: "nano_clip" (ships with segkit); "biomedclip" or a folder with
            `open_clip_config.json`, weights and tokenizer; a file that `save_text_encoder` wrote;
            or the name of an `open_clip` model, which needs `checkpoint`.
        checkpoint: weight file to use instead of the one in the folder.
        device: where to put it.

    Raises:
        MissingExtraError: `open_clip` is not installed.
        CheckpointError: A file is missing, damaged, unsafe, or does not fit.
        InputError: No encoder of that name is known.
    """
    path = Path(source)
    if str(source) in SHIPPED:
        path = Path(str(files("segkit"))) / "weights" / f"{source}.safetensors"
        encoder = _from_file(path)
    elif str(source) in KEPT:
        encoder = _from_folder(home_folder() / "models" / str(source), checkpoint)
    elif path.is_dir():
        encoder = _from_folder(path, checkpoint)
    elif path.suffix == ".safetensors":
        encoder = _from_file(path)
    else:
        encoder = _by_name(str(source), checkpoint)
    return encoder.to(device).eval()


def save_text_encoder(
    encoder: TextImageEncoder,
    path: str | Path,
    *,
    sizes: SmallSizes | None = None,
    folder: str | Path | None = None,
    half: bool = False,
) -> str:
    """Write an encoder so that `load_text_encoder` reads it; returns the sha256 of the weights.

    A small model (`sizes`) becomes one file; one that came from a `folder` becomes a folder, with
    the configuration and the tokenizer of that one.

    Raises:
        InputError: Neither `sizes` nor `folder` is given, or both.
    """
    if (sizes is None) == (folder is None):
        raise InputError("give sizes of a small model or the folder of a large one, not both")
    path, spec = Path(path), encoder.spec
    tensors = {
        name: tensor.half() if half and tensor.is_floating_point() else tensor
        for name, tensor in encoder.model.state_dict().items()
    }
    if sizes is not None:
        document = {
            "format": 1,
            "name": spec.name,
            "sizes": sizes.to_dict(),
            "words": list(encoder.tokenizer.words),  # type: ignore[attr-defined]
            "saliency": spec.saliency.to_dict(),
        }
        return write_safetensors(path, tensors, {HEADER: json.dumps(document)})
    path.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG, *FILES):
        if (known := Path(str(folder)) / name).is_file():
            shutil.copyfile(known, path / name)
    return write_safetensors(path / WEIGHT_FILES[0], tensors)


def sizes_of(encoder: TextImageEncoder) -> SmallSizes | None:
    """Sizes of a small model, read from its modules; None for any other."""
    if not isinstance(encoder.tokenizer, WordTokenizer):
        return None
    model: Any = encoder.model
    visual, text = model.visual, model.transformer
    block = visual.transformer.resblocks[0]
    return SmallSizes(
        image_size=visual.image_size[0],
        patch_size=visual.patch_size[0],
        width=visual.transformer.width,
        depth=len(visual.transformer.resblocks),
        heads=block.attn.num_heads,
        mlp_ratio=block.mlp.c_fc.out_features / visual.transformer.width,
        features=visual.output_dim,
        context=model.context_length,
        text_width=text.width,
        text_depth=len(text.resblocks),
        text_heads=text.resblocks[0].attn.num_heads,
        standardise=encoder.spec.mean is None,
    )


def _from_file(path: Path) -> TextImageEncoder:
    """A small model with its sizes and words in the header."""
    weights = read_weights(path)
    try:
        header = json.loads(weights.metadata[HEADER])
        sizes, words = SmallSizes(**header["sizes"]), tuple(header["words"])
        name, saliency = str(header["name"]), header["saliency"]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            "is not a text encoder that segkit wrote",
            path=path,
            fix="name a folder with open_clip_config.json, or the model by name with a checkpoint",
        ) from error
    encoder = build_small(sizes, words, name=name, saliency=saliency, sha256=weights.sha256)
    load_strictly(encoder.model, _single(weights.tensors), path)
    return encoder


def _from_folder(folder: Path, checkpoint: str | Path | None) -> TextImageEncoder:
    config_path = folder / CONFIG
    if not config_path.is_file():
        raise _lacks(folder, CONFIG)
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
        model_config = dict(config["model_cfg"])
        features, vision = int(model_config["embed_dim"]), dict(model_config["vision_cfg"])
        text = dict(model_config["text_cfg"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"is not a configuration of open_clip ({error})", path=config_path, fix="copy it again"
        ) from error
    found = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    path = Path(checkpoint) if checkpoint is not None else found
    if path is None:
        raise _lacks(folder, " or ".join(WEIGHT_FILES))
    weights = read_weights(path, allow_torch=True)
    tensors = to_open_clip(_single(weights.tensors))
    model: nn.Module
    if "hf_model_name" in text:
        model = BertClip(
            _image_part(vision, features, config_path), BertText(BertSizes.of(tensors))
        )
        tokenizer: Any = WordPieceTokenizer(folder, int(text.get("context_length", 256)))
    else:
        model, tokenizer = _plain(model_config, config_path)
    load_strictly(model, tensors, path)
    preprocess = config.get("preprocess_cfg", {})
    spec = EncoderSpec(
        folder.name,
        int(vision.get("image_size", 224)),
        _three(preprocess.get("mean", CLIP_MEAN)),
        _three(preprocess.get("std", CLIP_STD)),
        weights.sha256,
        _suited(vision, model),
    )
    return TextImageEncoder(model, tokenizer, spec=spec)


def _by_name(name: str, checkpoint: str | Path | None) -> TextImageEncoder:
    open_clip = import_open_clip()
    known = open_clip.list_models()
    if not _PLAIN_NAME.fullmatch(name) or name not in known:
        raise InputError(
            f"no text encoder {name!r}",
            fix=f"name one of {[*SHIPPED, *KEPT]}, a folder with {CONFIG}, or a ViT of open_clip "
            "(such as ViT-B-16) with a checkpoint",
            code="unknown_model",
        )
    if checkpoint is None:
        raise CheckpointError(
            f"{name} does not ship with segkit",
            fix="download its weights (safetensors) and pass the file as checkpoint; nothing is "
            "fetched at run time",
            code="no_weights",
        )
    config = dict(open_clip.get_model_config(name))
    vision = dict(config["vision_cfg"])
    model, tokenizer = _plain(config, Path(name))
    weights = read_weights(checkpoint, allow_torch=True)
    load_strictly(model, to_open_clip(_single(weights.tensors)), checkpoint)
    size = int(vision.get("image_size", 224))
    spec = EncoderSpec(name, size, CLIP_MEAN, CLIP_STD, weights.sha256, _suited(vision, model))
    return TextImageEncoder(model, tokenizer, spec=spec)


def _plain(config: Mapping[str, Any], path: Path) -> tuple[nn.Module, Any]:
    """Model and tokenizer of a configuration whose text encoder is that of CLIP."""
    open_clip = import_open_clip()
    text = dict(config["text_cfg"])
    if "hf_model_name" in text or "hf_tokenizer_name" in text:
        raise InputError(
            f"{path.name} needs a text encoder or a tokenizer from a hub; segkit asks none",
            fix="use a model with CLIP's own text encoder, or a BiomedCLIP folder",
        )
    if "timm_model_name" in config["vision_cfg"]:
        _check_timm(config["vision_cfg"], path)
    parts = {name: value for name, value in config.items() if name != "custom_text"}
    kind = open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.model.CLIP
    model = kind(**parts)
    return model, open_clip.SimpleTokenizer(context_length=int(text.get("context_length", 77)))


def _image_part(vision: Mapping[str, Any], features: int, path: Path) -> nn.Module:
    """The vision transformer of timm that a configuration names, without weights."""
    import_open_clip()
    from open_clip.timm_model import TimmModel

    return TimmModel(
        _check_timm(vision, path),
        embed_dim=features,
        image_size=int(vision.get("image_size", 224)),
        pool=vision.get("timm_pool", "avg"),
        proj=vision.get("timm_proj", "linear"),
        proj_bias=bool(vision.get("timm_proj_bias", False)),
        pretrained=False,
    )


def _check_timm(vision: Mapping[str, Any], path: Path) -> str:
    name = str(vision.get("timm_model_name", ""))
    # a name with a colon would make timm ask a hub, as would pretrained weights
    if not _PLAIN_NAME.fullmatch(name) or vision.get("timm_model_pretrained"):
        raise CheckpointError(
            f"names the image encoder {name!r}, or asks for weights from a hub",
            path=path,
            fix="set timm_model_name to a plain name and timm_model_pretrained to false",
            code="unsafe_checkpoint",
        )
    return name


def _suited(vision: Mapping[str, Any], model: nn.Module) -> SaliencySettings:
    """Defaults of MedCLIP-SAMv2 for 12 blocks; the same relative depth for others."""
    visual: Any = model.visual
    blocks = visual.trunk.blocks if "timm_model_name" in vision else visual.transformer.resblocks
    return SaliencySettings(layer=round(len(blocks) * 8 / 12) - 1)


def _single(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies in single precision; half-precision files are widened."""
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor.clone()
        for name, tensor in tensors.items()
    }


def _three(values: Any) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return (first, second, third)


def _lacks(folder: Path, what: str) -> CheckpointError:
    name = KEPT.get(folder.name)
    listed = f"{CONFIG}, {' or '.join(WEIGHT_FILES)}, and {' or '.join(FILES)}"
    fix = f"the folder must hold {listed}"
    if name:
        fix = f"download {listed} from https://huggingface.co/{name} and put them into {folder}"
    return CheckpointError(
        f"this text encoder lacks {what}", path=folder, fix=fix, code="no_weights"
    )
