"""Masks of continuous decoders: on the pixels of the source, without resizing."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from segkit.data.meshes import save_surface
from segkit.decoders import InrClassDecoder, InrDecoder
from segkit.geometry import Geometry
from segkit.models import build
from segkit.predictors import ImagePredictor, VolumePredictor
from segkit.typing import Prompts


def predictor(classes: int | None = None) -> VolumePredictor:
    torch.manual_seed(0)
    kind = InrDecoder if classes is None else InrClassDecoder
    made = build.sam_tiny(decoder=partial(kind, width=8), classes=classes)
    return VolumePredictor(made, device="cpu")


def source() -> tuple[np.ndarray, Geometry]:
    generator = np.random.default_rng(0)
    geometry = Geometry.from_spacing((3, 50, 40), (3.0, 0.7, 1.0))
    return generator.integers(0, 200, (3, 50, 40), dtype=np.int16), geometry


def test_a_session_asks_the_field_at_every_voxel() -> None:
    model = predictor()
    session = model.open(source())
    session.add_box(((1, 10, 8), (2, 40, 30)))
    logits = session.logits()
    assert np.isneginf(logits[[0, 2]]).all()
    engine = session._engine
    height, width = engine.view.content_size
    features = engine.slices.features(1)
    marks = engine.view.points_to_model(np.array([[1, 10, 8], [1, 39, 29]]))
    points = torch.tensor(marks, dtype=torch.float32)[None]
    points[..., 0] = 0
    prompts = Prompts(points, torch.tensor([[2, 3]]))
    row, column = 20, 33
    place = torch.tensor(
        [[(2 * row + 1) / 50 * height / 64 - 1, (2 * column + 1) / 40 * width / 64 - 1]]
    )
    with torch.no_grad():
        expected = model.segmenter.query(features, place, prompts)
    assert logits[1, row, column] == pytest.approx(float(expected), abs=1e-3)
    assert (session.mask() == (logits > 0)).all()


def test_classes_have_the_pixels_of_the_source() -> None:
    labels = predictor(classes=2).segment(source())
    assert labels.shape == (3, 50, 40)
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) <= {0, 1, 2}


def test_pictures_too() -> None:
    torch.manual_seed(0)
    model = ImagePredictor(build.sam_tiny(decoder=partial(InrDecoder, width=8)), device="cpu")
    session = model.open(np.zeros((70, 90, 3), dtype=np.uint8))
    assert session.add_box(((10, 10), (50, 60))).logits().shape == (70, 90)


def test_a_mask_becomes_a_surface(tmp_path: Path) -> None:
    model = predictor()
    volume = model.read(source())
    session = model.open(volume).add_box(((0, 10, 8), (3, 40, 30)))
    logits = session.logits() + 100
    path = save_surface(tmp_path / "organ.vtp", logits, volume)
    assert path.stat().st_size > 1000
