import time
from pathlib import Path

import numpy as np
import pytest

from segkit.adapters import DepthwiseDilated, LoRA
from segkit.data.preprocess import InputSpec
from segkit.errors import InputError
from segkit.geometry import Geometry
from segkit.models import build
from segkit.models.files import save_adapter
from segkit.models.info import ModelInfo
from segkit.models.segmenter import Segmenter
from segkit.predictors.base import Predictor
from segkit.predictors.shelf import Shelf

SPEC = InputSpec(size=64, channels="repeat")


def predictor(classes: int, **options: object) -> Predictor:
    segmenter = build.sam_tiny(classes=classes, **options)  # type: ignore[arg-type]
    names = {value: f"class {value}" for value in range(1, classes + 1)}
    return Predictor(segmenter, ModelInfo.of(segmenter, labels=names, input=SPEC), device="cpu")


def volume() -> tuple[np.ndarray, Geometry]:
    array = np.random.default_rng(0).normal(size=(5, 20, 24)).astype(np.float32)
    return array, Geometry.from_spacing(array.shape, (3.0, 1.0, 1.0))


def test_models_without_adapter_share_one_embedding(monkeypatch: pytest.MonkeyPatch) -> None:
    models = {"a": predictor(1, trainable="decoder"), "b": predictor(2, trainable="decoder")}
    alone = {name: one.segment(volume()) for name, one in models.items()}
    shelf = Shelf(models)
    encoded: list[int] = []
    encode = Segmenter.encode

    def counted(self: Segmenter, image: object, grid: object = None) -> object:
        encoded.append(len(image))  # type: ignore[arg-type]
        return encode(self, image, grid)  # type: ignore[arg-type]

    monkeypatch.setattr(Segmenter, "encode", counted)
    found = shelf.segment(volume())
    assert sum(encoded) == 5
    assert list(found) == ["a", "b"]
    for name, labels in found.items():
        assert (labels == alone[name]).all()


def test_adapters_share_the_frozen_encoder_and_keep_their_own_masks() -> None:
    models = {
        "plain": predictor(1, trainable="decoder"),
        "dilated": predictor(1, adapter=DepthwiseDilated),
        "lora": predictor(1, adapter=LoRA),
    }
    alone = {name: one.segment(volume()) for name, one in models.items()}
    shelf = Shelf(models)
    encoders = {name: id(one.segmenter.backbone.encoder) for name, one in models.items()}
    assert encoders["plain"] == encoders["dilated"] != encoders["lora"]
    for name, labels in shelf.segment(volume()).items():
        assert (labels == alone[name]).all()


def test_a_model_is_at_hand_at_once(tmp_path: Path) -> None:
    paths = []
    for name in ("one", "two"):
        segmenter = build.sam_tiny(classes=1)
        (tmp_path / name).mkdir()
        path = tmp_path / name / "adapter.safetensors"
        save_adapter(path, segmenter, ModelInfo.of(segmenter, input=SPEC))
        paths.append(path.parent)
    shelf = Shelf.from_pretrained(paths, device="cpu")
    start = time.perf_counter()
    assert shelf.use("two").segmenter.is_automatic
    assert time.perf_counter() - start < 0.01
    with pytest.raises(InputError, match=r"no model 'three'; loaded: \['one', 'two'\]"):
        shelf.use("three")
    with pytest.raises(InputError, match="several models are called 'one'"):
        Shelf.from_pretrained([paths[0], paths[0]])


def test_another_backbone_is_refused_with_both_hashes() -> None:
    other = predictor(1, checkpoint="random:7")
    with pytest.raises(InputError, match=r"'a' stands on sam_tiny with sha256 \w+, 'b' on") as told:
        Shelf({"a": predictor(1), "b": other})
    assert other.sha256 in str(told.value)
    with pytest.raises(InputError, match="at least one model"):
        Shelf({})
