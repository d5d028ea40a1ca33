"""DVPT: its bottleneck and the whole classifier."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from segkit.adapters.dvpt import GatedBottleneck
from segkit.models.convert_dvpt import authors_name
from segkit.models.dvpt_classifier import ClassifierSizes, DvptClassifier
from tools.parity.harness import Case, copied, images, import_file, randomise


def cases(root: Path) -> Iterator[Case]:
    """The module that DVPT adds, and CLIP's ViT with it."""
    model = import_file(root / "code" / "model.py", "dvpt_model")
    theirs = model.share_MLP(64)
    ours = GatedBottleneck(64, 20)
    randomise(theirs)
    mine = [ours.gate, *ours.down.parameters(), *ours.up.parameters()]
    pairs = copied(list(theirs.parameters()), _ordered(theirs, mine))
    yield Case("gated bottleneck", theirs, ours, [images(2, 5, 64)], pairs)
    yield _whole(model)


def _ordered(theirs: nn.Module, mine: list[nn.Parameter]) -> list[nn.Parameter]:
    names = ["prompt_gate", "prompt_key_proj_d.weight", "prompt_key_proj_d.bias"]
    names += ["prompt_key_proj_u.weight", "prompt_key_proj_u.bias"]
    own = dict(zip(names, mine, strict=True))
    return [own[name] for name, _ in theirs.named_parameters()]


def _whole(model: Any) -> Case:
    sizes = ClassifierSizes(48, 16, width=128, depth=6, heads=2, out_dim=32)
    encoder = model.VisionTransformer(
        input_resolution=48, patch_size=16, width=128, layers=6, heads=2, output_dim=32
    )
    theirs = nn.Module()
    theirs.add_module("encoder", encoder)
    theirs.add_module("fc_head", nn.Linear(32, sizes.classes, bias=False))
    randomise(theirs, scale=0.1)
    ours = DvptClassifier(sizes)
    mine = dict(ours.named_parameters())
    # shared modules are named by their first block
    own = dict(theirs.named_parameters())
    pairs = copied(list(own.values()), [mine[authors_name(name)] for name in own])
    return Case(
        "classifier on CLIP's ViT",
        lambda image: theirs.get_submodule("fc_head")(encoder(image)),
        ours,
        [images(2, 3, 48, 48)],
        [pair for pair in pairs if pair[1].requires_grad],
    )
