"""What every adapter promises on every backbone; both are found, not listed.

Adapters: the subclasses of `Adapter` in the modules of `segkit.adapters`, built from their
specification alone. Backbones: the subclasses of `Backbone` in `segkit.backbones` that can build a
tiny member of their family. An adapter that cannot work on a backbone must say so in one sentence.
"""

import copy
import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from functools import partial
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

import segkit.adapters
import segkit.backbones
from segkit.adapters import Adapter, DepthwiseDilated, LoRA, Stack
from segkit.backbones.base import Backbone
from segkit.typing import BackboneSpec, Features, Grid

GRID = Grid((2, 64, 64), spacing_mm=(2.5, 0.8, 0.8))


def subclasses_in(package: ModuleType, base: type) -> list[type]:
    found = set()
    for info in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        for _, item in inspect.getmembers(importlib.import_module(info.name), inspect.isclass):
            if issubclass(item, base) and item is not base and item.__module__ == info.name:
                found.add(item)
    return sorted(found, key=lambda item: item.__qualname__)


ADAPTERS = [
    *subclasses_in(segkit.adapters, Adapter),
    pytest.param(partial(Stack, adapters=[LoRA, DepthwiseDilated]), id="Stack[LoRA,Dilated]"),
    pytest.param(partial(LoRA, targets=("q", "v"), gated=True), id="LoRA[q,v,gated]"),
]
BACKBONES = [b for b in subclasses_in(segkit.backbones, Backbone) if "tiny" in vars(b)]
Make = Callable[[], Backbone]


@pytest.fixture(params=BACKBONES, ids=lambda backbone: backbone.__name__)
def family(request: pytest.FixtureRequest) -> type[Backbone]:
    return request.param


@pytest.fixture(params=ADAPTERS, ids=lambda adapter: adapter.__name__)
def make(request: pytest.FixtureRequest, family: type[Backbone]) -> Make:
    def build() -> Backbone:
        torch.manual_seed(3)
        return family.tiny(request.param)

    return build


@pytest.fixture
def plain(family: type[Backbone]) -> Backbone:
    return family.tiny(Adapter)


def images(n: int = 2, h: int = 64, w: int = 64) -> Tensor:
    return torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(0))


def loss_of(features: Features) -> Tensor:
    weights = torch.Generator().manual_seed(1)
    return sum(
        (level * torch.randn(level.shape, generator=weights)).mean() + level.square().mean()
        for level in features.levels
    )


def perturb(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(2)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data.add_(noise.to(parameter), alpha=0.1)


def assert_same(found: Features, expected: Features, tolerance: float = 0.0) -> None:
    torch.testing.assert_close(found.levels, expected.levels, rtol=tolerance, atol=tolerance)


def differs(found: Features, expected: Features) -> bool:
    return any(not torch.equal(a, b) for a, b in zip(found.levels, expected.levels, strict=True))


def test_the_suite_finds_adapters_and_backbones() -> None:
    names = {item.__name__ for item in subclasses_in(segkit.adapters, Adapter)}
    assert {"DepthwiseDilated", "HighFrequency", "LoRA", "Stack"} <= names
    assert "SamBackbone" in {item.__name__ for item in BACKBONES}


@pytest.mark.parametrize(
    "item",
    [*subclasses_in(segkit.adapters, Adapter), *subclasses_in(segkit.backbones, Backbone)],
    ids=lambda item: item.__name__,
)
def test_the_example_of_the_class_runs(item: type) -> None:
    names = dict(inspect.getmembers(segkit.adapters) + inspect.getmembers(segkit.backbones)) | {
        "torch": torch,
        "partial": partial,
    }
    (example,) = doctest.DocTestFinder(recurse=False).find(item, globs=names | {"Grid": Grid})
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0


def test_starts_as_the_identity(make: Make, plain: Backbone) -> None:
    backbone = make().train()
    if backbone.adapter.not_identity_because:
        assert len(backbone.adapter.not_identity_because) > 20, "name the reason in a sentence"
        assert differs(backbone(images(), GRID), plain(images(), GRID))
        return
    with torch.no_grad():  # with gradients the two would sum in another order
        assert_same(backbone(images(), GRID), plain(images(), GRID))


def test_every_adapter_parameter_learns_and_the_encoder_does_not(make: Make) -> None:
    backbone = make().train()
    own = dict(backbone.adapter.named_parameters())
    assert all(parameter.requires_grad for parameter in own.values())
    mine = {id(parameter) for parameter in own.values()}
    frozen = {k: p for k, p in backbone.encoder.named_parameters() if id(p) not in mine}
    before = {name: parameter.clone() for name, parameter in frozen.items()}
    moved: set[str] = set()
    for _ in range(3 if own else 0):
        optimizer = torch.optim.SGD(own.values(), lr=0.1)
        optimizer.zero_grad()
        loss_of(backbone(images(), GRID)).backward()
        moved |= {name for name, p in own.items() if p.grad is not None and p.grad.any()}
        optimizer.step()
    assert moved == set(own), f"no gradient within three steps: {sorted(set(own) - moved)}"
    assert not [name for name, parameter in frozen.items() if parameter.grad is not None]
    torch.testing.assert_close(dict(frozen), before, rtol=0, atol=0)


def test_adapter_parameters_act(make: Make, plain: Backbone) -> None:
    backbone = make()
    perturb(backbone.adapter)
    has_parameters = bool(list(backbone.adapter.parameters()))
    assert differs(backbone(images(), GRID), plain(images(), GRID)) == has_parameters


def test_encoder_keys_and_values_are_unchanged(make: Make, plain: Backbone) -> None:
    backbone = make()
    state, expected = backbone.encoder.state_dict(), plain.encoder.state_dict()
    assert set(state) == set(expected)
    torch.testing.assert_close(dict(state), dict(expected), rtol=0, atol=0)
    for tensor in state.values():
        tensor.zero_()
    backbone.encoder.load_state_dict(expected)
    assert_same(backbone(images(), GRID), make()(images(), GRID))


def test_adapter_state_alone_restores_the_model(make: Make) -> None:
    trained = make()
    perturb(trained.adapter)
    state = trained.adapter.state_dict()
    own = sum(parameter.numel() for parameter in trained.adapter.parameters())
    assert sum(tensor.numel() for tensor in state.values()) == own
    fresh = make()
    fresh.adapter.load_state_dict(state)
    assert_same(fresh(images(), GRID), trained(images(), GRID))


def test_deep_copies_are_independent(make: Make) -> None:
    original = make()
    expected = original(images(), GRID)
    twin = copy.deepcopy(original)
    assert_same(twin(images(), GRID), expected)
    perturb(twin.adapter)
    assert_same(original(images(), GRID), expected)
    twin.adapter.load_state_dict(original.adapter.state_dict())
    assert_same(twin(images(), GRID), expected)
    twin.encoder.load_state_dict(original.encoder.state_dict())


def test_compiles_as_one_graph(make: Make) -> None:
    backbone = make()
    perturb(backbone.adapter)
    torch.compiler.reset()  # all cases share code, and so one cache of limited size
    compiled = torch.compile(backbone, fullgraph=True, backend="eager")
    found = compiled(images(), GRID)
    assert_same(found, backbone(images(), GRID), 1e-5)
    if list(backbone.adapter.parameters()):
        loss_of(found).backward()


def test_bfloat16_stays_close(make: Make) -> None:
    backbone = make()
    perturb(backbone.adapter)
    expected = backbone(images(), GRID)
    found = backbone.to(torch.bfloat16)(images().bfloat16(), GRID)
    for level, reference in zip(found.levels, expected.levels, strict=True):
        assert level.dtype == torch.bfloat16
        assert (level.float() - reference).norm() < 0.1 * reference.norm()


@pytest.mark.parametrize("size", [(96, 64), (64, 160), (32, 96)])
def test_other_sizes(make: Make, plain: Backbone, size: tuple[int, int]) -> None:
    image, grid = images(2, *size), Grid((1, *size))
    backbone = make()
    if not backbone.adapter.not_identity_because:
        with torch.no_grad():
            assert_same(backbone(image, grid), plain(image, grid))
    perturb(backbone.adapter)
    found, expected = backbone(image, grid), plain(image, grid)
    assert [a.shape for a in found.levels] == [b.shape for b in expected.levels]
    assert all(level.isfinite().all() for level in found.levels)


def test_volumes_of_a_batch_are_independent(make: Make) -> None:
    backbone = make()
    perturb(backbone.adapter)
    image, grid = images(6), Grid((3, 64, 64))
    together = backbone(image, grid)
    apart = [backbone(volume, grid).levels for volume in image.split(3)]
    for level, *parts in zip(together.levels, *apart, strict=True):
        torch.testing.assert_close(level, torch.cat(parts), rtol=1e-4, atol=1e-5)


def test_no_state_survives_a_forward_pass(make: Make) -> None:
    backbone = make()
    perturb(backbone.adapter)
    expected = backbone(images(), GRID)
    backbone(images(4, 96, 32), Grid((4, 96, 32)))
    assert_same(backbone(images(), GRID), expected)


def test_checkpointing_equals_plain(make: Make) -> None:
    backbone = make().train()
    if not hasattr(backbone, "checkpointing") or not list(backbone.adapter.parameters()):
        pytest.skip("nothing to recompute here")
    perturb(backbone.adapter)
    gradients = []
    for backbone.checkpointing in (False, True):
        backbone.zero_grad()
        loss_of(backbone(images(), GRID)).backward()
        gradients.append([p.grad.clone() for p in backbone.adapter.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-7)


def test_options_are_keywords_with_defaults_and_checked(make: Make) -> None:
    adapter = type(make().adapter)
    options = list(inspect.signature(adapter).parameters.values())[1:]
    assert all(option.kind is option.KEYWORD_ONLY for option in options)
    assert all(option.default is not option.empty for option in options)
    spec: BackboneSpec = make().spec
    for option in options:
        if option.name == "compat":
            with pytest.raises(ValueError, match="compat must be None or 'authors', got 'paper'"):
                adapter(spec, compat="paper")
