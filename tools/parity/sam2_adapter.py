"""SAM2-Adapter: the prompt generator on Hiera, whose groups end one block into the next stage."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from segkit.adapters import HighFrequency
from segkit.typing import BackboneSpec, BlockSpec, Grid
from tools.parity.harness import Case, copied, images, import_package, randomise, stubs

DIMS, STAGES, SIDE = (64, 128, 256, 512), (2, 3, 4, 2), 128
GROUPS = (3, 3, 4, 1)  # blocks whose input has one width


def cases(root: Path) -> Iterator[Case]:
    """What each block receives, one after the other and without the blocks between."""
    package = root / "models" / "sam2"
    names = ("modeling", "modeling.backbones")
    import_package(package, "sam2_adapter", run_init=False)
    for name in names:
        import_package(package / name.replace(".", "/"), f"sam2_adapter.{name}", run_init=False)
    none = dict.fromkeys(("DropPath", "MLP"), object)
    with stubs({"sam2_adapter.modeling.sam2_utils": none}):
        hiera = __import__("sam2_adapter.modeling.backbones.hieradet", fromlist=["PromptGenerator"])
    theirs = hiera.PromptGenerator(
        32, "highpass", list(DIMS), "1234", list(STAGES), "fft", 0.25, True, True, "adaptor", SIDE
    )
    ours = HighFrequency(_spec(), compat="authors")
    randomise(theirs)
    # in single precision the transform's gradient differs from CPU to CPU by more than 1e-5
    theirs, ours = theirs.double(), ours.double()
    pairs = copied(*_parameters(theirs, ours))
    sides = [SIDE // 4 // 2**level for level in range(4)]
    shapes = [(2, side, side, dim) for side, dim in zip(sides, DIMS, strict=True)]
    inputs = [images(*shape, seed=level).double() for level, shape in enumerate(shapes)]

    def original(image: Tensor, *tokens: Tensor) -> list[Tensor]:
        made: list[Tensor] = []
        with _on_cpu():
            levels = theirs.init_handcrafted(image)
        for level, (x, count) in enumerate(zip(tokens, GROUPS, strict=True)):
            prompt = theirs.init_prompt(x, levels[level], level + 1)
            for index in range(count):
                x = theirs.get_prompt(x, prompt, level + 1, index)
                made.append(x)
        return made

    def run(image: Tensor, *tokens: Tensor) -> list[Tensor]:
        made: list[Tensor] = []
        state = ours.prepare(image, tokens[0], Grid((1, SIDE, SIDE)))
        for x, count in zip(tokens, GROUPS, strict=True):
            for _ in range(count):
                x = ours.before(len(made), x, state)
                made.append(x)
        return made

    image = images(2, 3, SIDE, SIDE).double()
    yield Case("prompt generator", original, run, inputs, pairs, [image])


def _spec() -> BackboneSpec:
    blocks: list[BlockSpec] = []
    for level, (dim, count) in enumerate(zip(DIMS, STAGES, strict=True)):
        for _ in range(count):
            before = blocks[-1].dim_out if blocks else dim
            blocks.append(BlockSpec(before, dim, 4 * 2**level))
    return BackboneSpec("parity", SIDE, 32, tuple(blocks), 256, 16)


def _parameters(theirs: Any, ours: HighFrequency) -> tuple[list[Any], list[Any]]:
    """Layers in use, in one order; the released module also holds some that no block uses."""
    their: list[Any] = []
    mine: list[Any] = []
    first = 0
    for level, count in enumerate(GROUPS):
        name = str(level + 1)
        light = [getattr(theirs, f"lightweight_mlp{name}_{i}")[0] for i in range(count)]
        kinds = ("shared_mlp", "embedding_generator", "handcrafted_generator")
        for layer in [*(getattr(theirs, kind + name) for kind in kinds), *light]:
            their += list(layer.parameters())
        own = [ours.up[level], ours.embedding[level], ours.patches[level]]
        for layer in [*own, *ours.light[first : first + count]]:
            mine += list(layer.parameters())
        first += count
    return their, mine


@contextmanager
def _on_cpu() -> Iterator[None]:
    """The released code names its device."""
    move = torch.Tensor.to

    def stay(tensor: Tensor, *where: Any, **more: Any) -> Tensor:
        return tensor if where == ("cuda",) else move(tensor, *where, **more)

    with mock.patch.object(torch.Tensor, "to", stay):
        yield
