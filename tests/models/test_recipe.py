"""Parts of a model as plain values, and nothing but classes of segkit when they are read."""

import json
from functools import partial

import pytest
from torch import nn

import segkit.adapters
from segkit.adapters.base import Adapter
from segkit.decoders import Decoder, MaskDecoder, QueryDecoder
from segkit.errors import CheckpointError, InputError
from segkit.models.recipe import Part
from segkit.prompts import SamPromptEncoder


def restored(part: Part) -> Part:
    return Part.from_dict(json.loads(json.dumps(part.to_dict())), field_name="adapter")


def test_a_class_is_named_as_its_package_exports_it() -> None:
    assert Part.of(MaskDecoder) == Part("segkit.decoders.MaskDecoder", {})
    assert Part.of(Adapter) == Part("segkit.adapters.Adapter", {})


def test_nested_partials_are_flattened_the_outer_wins() -> None:
    inner = partial(QueryDecoder, classes=2)
    assert Part.of(partial(inner, classes=4)).args == {"classes": 4}
    assert Part.of(inner, classes=7).args == {"classes": 7}


@pytest.mark.parametrize(
    "factory",
    [
        Adapter,
        partial(SamPromptEncoder, trained="no_mask"),
        partial(QueryDecoder, classes=3),
    ],
)
def test_round_trip(factory: object) -> None:
    part = Part.of(factory)
    assert restored(part) == part
    built = part.factory()
    assert (built.func, built.keywords) == (getattr(factory, "func", factory), dict(part.args))


def test_parts_inside_arguments_are_built_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Chain(Adapter):
        def __init__(self, spec: object, *, adapters: list, sizes: tuple = (1, 2)) -> None:
            super().__init__(spec)
            self.sizes = sizes
            self.parts = [make(spec) for make in adapters]

    monkeypatch.setattr(segkit.adapters, "Chain", Chain, raising=False)
    Chain.__qualname__ = "Chain"
    part = restored(Part.of(partial(Chain, adapters=[Adapter, partial(Adapter)], sizes=(3, 4))))
    chain = part.factory()(None)
    assert [type(adapter) for adapter in chain.parts] == [Adapter, Adapter]
    assert part.args["sizes"] == [3, 4]


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "torch.nn.Linear",
        "segkit.models.build.sam_tiny",
        "segkit.adapters.base.nn.Linear",
        "segkit.adapters.import_module",
        "segkit.decoders.Adapter",
        "segkit.adapters.__class__",
        "MaskDecoder",
        "",
    ],
)
def test_only_classes_of_segkit_are_accepted(target: str) -> None:
    with pytest.raises(CheckpointError, match=r"decoder names .*which is not a class of segkit"):
        Part.from_dict({"target": target, "args": {}}, field_name="decoder")
    nested = {"target": "segkit.adapters.Adapter", "args": {"a": [{"target": target, "args": {}}]}}
    with pytest.raises(CheckpointError, match="which is not a class of segkit"):
        Part.from_dict(nested, field_name="adapter")


def test_a_misspelt_class_gets_a_suggestion() -> None:
    value = {"target": "segkit.decoders.MaskDecodr", "args": {}}
    with pytest.raises(CheckpointError, match=r"did you mean 'segkit.decoders.MaskDecoder'\?"):
        Part.from_dict(value, field_name="decoder")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"target": "segkit.adapters.Adapter"}, "must have exactly the keys 'target' and 'args'"),
        ("segkit.adapters.Adapter", "must have exactly the keys"),
        ({"target": "segkit.adapters.Adapter", "args": {}, "x": 1}, "must have exactly the keys"),
        ({"target": 3, "args": {}}, "must name a class and its arguments"),
        ({"target": "segkit.adapters.Adapter", "args": []}, "must name a class and its arguments"),
        (
            {"target": "segkit.decoders.QueryDecoder", "args": {"clases": 3}},
            r"does not take these arguments \(.*'clases'\); allowed: \['classes'\]",
        ),
    ],
)
def test_malformed_parts_are_refused(value: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        Part.from_dict(value, field_name="adapter")


def test_a_class_from_elsewhere_can_be_used_but_not_written() -> None:
    class Mine(Decoder):
        pass

    part = Part.of(Mine)
    with pytest.raises(
        InputError, match=r"Mine cannot be written to a file: .*not a class of segkit"
    ):
        part.to_dict()


def test_arguments_that_are_no_plain_values_cannot_be_written() -> None:
    part = Part.of(partial(Adapter, layer=nn.Linear(1, 1)))
    with pytest.raises(InputError, match="argument 'layer' cannot be written to a file: Linear"):
        part.to_dict()


def test_positional_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"name the arguments of .*positional ones are lost"):
        Part.of(partial(QueryDecoder, None, classes=2))
