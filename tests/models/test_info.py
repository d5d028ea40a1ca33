"""The JSON document of adapter files: complete, strict, versioned."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from segkit.data.preprocess import InputSpec, Intensity
from segkit.errors import CheckpointError, InputError
from segkit.models import ModelInfo, build
from segkit.models.segmenter import Segmenter

SPEC = InputSpec(
    size=96, channels="repeat", intensity=Intensity("window", windows=((-100.0, 200.0),))
)


@pytest.fixture
def info() -> ModelInfo:
    return ModelInfo.of(
        build.sam_tiny(classes=2),
        labels={1: "liver", 2: "tumour"},
        input=SPEC,
        metrics={"dice": {"1": 0.9}},
        licence="CC-BY-4.0",
    )


def test_document_has_the_agreed_entries(info: ModelInfo) -> None:
    document = json.loads(info.to_json())
    assert document["format"] == 1
    assert document["backbone"]["name"] == "sam_tiny"
    assert len(document["backbone"]["sha256"]) == 64
    assert document["adapter"] == {"target": "segkit.adapters.Adapter", "args": {}}
    assert document["decoder"] == {"target": "segkit.decoders.QueryDecoder", "args": {"classes": 2}}
    assert document["prompt"] == {"target": "segkit.prompts.SamPromptEncoder", "args": {}}
    assert document["labels"] == {"1": "liver", "2": "tumour"}
    entries = ("dimensions", "spacing_mm", "orientation", "intensity", "size")
    assert all(name in document["input"] for name in entries)
    assert document["metrics"] == {"dice": {"1": 0.9}}
    assert document["licence"] == "CC-BY-4.0"
    assert document["created"].endswith("+00:00")
    assert document["segkit_version"]


def test_round_trip(info: ModelInfo) -> None:
    assert ModelInfo.from_json(info.to_json()) == info


def test_default_input_has_the_size_of_the_model() -> None:
    assert ModelInfo.of(build.sam_tiny(image_size=128)).input.size == 128


def change(**entries: object) -> Callable[[dict], dict]:
    return lambda document: {**document, **entries}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            change(format=2, segkit_version="7.1", novelty=3),
            r"file format 2 is newer than 1, which this segkit .*needs segkit >= 7\.1",
        ),
        (change(format="1"), "format must be a whole number >= 1, got '1'"),
        (change(format=0), "format must be a whole number >= 1, got 0"),
        (change(novelty=3), r"lacks \[\] and has unknown \['novelty'\]"),
        (lambda d: {k: v for k, v in d.items() if k != "labels"}, r"lacks \['labels'\]"),
        (change(backbone={"name": "nano"}), "backbone must have exactly the keys"),
        (
            change(backbone={"name": 1, "sha256": "", "image_size": 64}),
            "name must be a text, got 1",
        ),
        (
            change(backbone={"name": "nano", "sha256": "", "image_size": "64"}),
            "image_size must be a whole number",
        ),
        (change(trainable="encoder"), "trainable must be one of .*got 'encoder'"),
        (change(labels=["liver"]), "labels must map mask values to names"),
        (change(labels={"a": "liver"}), "labels must map mask values to names"),
        (change(labels={"0": "background"}), r"values 1 to 255, got \[0\]"),
        (change(metrics=[]), "metrics must be an object"),
        (change(licence=None), "licence must be a text, got None"),
        (change(input={"size": 0}), "'segkit' is wrong: .*size >= 1"),
        (change(input=[]), "'segkit' is wrong"),
        (change(adapter={"target": "os.system", "args": {}}), "adapter names 'os.system'"),
    ],
)
def test_wrong_documents_are_refused(info: ModelInfo, edit: Callable, message: str) -> None:
    text = json.dumps(edit(json.loads(info.to_json())))
    with pytest.raises(CheckpointError, match=message):
        ModelInfo.from_json(text)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\x00"])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError, match="'segkit' is not JSON"):
        ModelInfo.from_json(text)


def test_what_is_no_object_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"'segkit' must be an object, got \[1\]"):
        ModelInfo.from_json("[1]")


def test_a_model_put_together_by_hand_is_refused() -> None:
    built = build.sam_tiny()
    by_hand = Segmenter(built.backbone, built.prompt_encoder, built.decoder)
    with pytest.raises(InputError, match=r"put together by hand.*segkit\.build"):
        ModelInfo.of(by_hand)


@pytest.mark.parametrize("value", [0, 256])
def test_labels_are_values_of_an_eight_bit_mask(info: ModelInfo, value: int) -> None:
    with pytest.raises(InputError, match=rf"mask values 1 to 255, got \[{value}\]"):
        replace(info, labels={1: "one", value: "other"})
