"""SAM-Adapter: the prompt generator on SAM's ViT."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from segkit.adapters import HighFrequency
from segkit.typing import BackboneSpec, BlockSpec, Grid
from tools.parity.harness import Case, copied, images, import_package, randomise

DIM, DEPTH, SIDE, PATCH = 64, 3, 64, 8


def cases(root: Path) -> Iterator[Case]:
    """Prompts of all blocks, from the image and the patch embedding."""
    folder = root / "models" / "mmseg" / "models" / "sam"
    import_package(folder, "sam_adapter_sam", run_init=False)
    encoder = __import__("sam_adapter_sam.image_encoder", fromlist=["PromptGenerator"])
    theirs = encoder.PromptGenerator(
        scale_factor=32, prompt_type="highpass", embed_dim=DIM, tuning_stage=1234, depth=DEPTH,
        input_type="fft", freq_nums=0.25, handcrafted_tune=True, embedding_tune=True,
        adaptor="adaptor", img_size=SIDE, patch_size=PATCH,
    )  # fmt: skip
    spec = BackboneSpec("parity", SIDE, PATCH, (BlockSpec(DIM, DIM, PATCH),) * DEPTH, DIM, PATCH)
    ours = HighFrequency(spec, compat="authors")
    randomise(theirs)
    named = dict(theirs.named_parameters())
    order = ["shared_mlp", "embedding_generator"]
    order += [f"lightweight_mlp_{i}.0" for i in range(DEPTH)] + ["prompt_generator.proj"]
    parts = (ours.up, ours.embedding, ours.light, ours.patches)
    pairs = copied(
        [named[f"{name}.{kind}"] for name in order for kind in ("weight", "bias")],
        [p for part in parts for p in part.parameters()],
    )

    def original(image: Tensor, patches: Tensor) -> list[Tensor]:
        features = theirs.init_handcrafted(image), theirs.init_embeddings(patches)
        prompts = theirs.get_prompt(*features)
        return [one.view(len(image), SIDE // PATCH, -1, DIM) for one in prompts]

    def run(image: Tensor, patches: Tensor) -> list[Tensor]:
        state = ours.prepare(image, patches, Grid((1, SIDE, SIDE)))
        none = torch.zeros_like(patches)
        return [ours.before(index, none, state) for index in range(DEPTH)]

    cells = SIDE // PATCH
    inputs = [images(2, 3, SIDE, SIDE), images(2, cells, cells, DIM, seed=2)]
    yield Case("prompt generator", original, run, inputs, pairs)
