"""Training on windows around objects."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_run import SIZE, Squares, batch_of, tiny_fit, tiny_segmenter

from segkit.data.preprocess import InputSpec, Intensity
from segkit.data.zoom import Zoom
from segkit.errors import InputError
from segkit.lightning import Interaction, InteractiveModule, OptimizerPlan
from segkit.lightning.close_ups import BOXED, CLICKED, CloseUps, close_ups
from segkit.losses import DiceBCE
from segkit.predictors import ImagePredictor
from segkit.prompts.simulate import sample_objects

ZOOM = Zoom(1.5, 16)


class ZoomedSquares(Squares):
    """Squares whose description asks for windows."""

    model_input = InputSpec(2, SIZE, "repeat", Intensity("full"), zoom=ZOOM)


def module(zoom: Zoom | None = ZOOM, **options: Any) -> InteractiveModule:
    return InteractiveModule(
        tiny_segmenter(classes=None),
        DiceBCE(),
        labels=Squares.labels,
        optimizer=OptimizerPlan(lr=1e-2),
        interaction=Interaction(**{"zoom": zoom, "rounds": 2} | options),
    )


def seen(seed: int | None = None, widths: tuple[float, float] = BOXED) -> CloseUps:
    batch = batch_of("train", [0, 3, 5])
    objects = sample_objects(batch.mask, None, 4, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed or 0)
    return close_ups(batch.image, objects, ZOOM, generator, None if seed is None else widths)


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_windows_hold_their_object_whole_and_alone(seed: int | None) -> None:
    close = seen(seed)
    assert close.image.shape == (6, 3, 16, 16)
    assert close.objects.image_index.tolist() == list(range(6))
    for row, (rows, columns) in enumerate(close.windows):
        assert close.masks[row].sum() == close.masks[row, rows, columns].sum() == 120
        inside = close.objects.masks[row]
        share = inside.float().mean() * (rows.stop - rows.start) * (columns.stop - columns.start)
        assert abs(float(share) - 120) < 30
        bright = close.image[row, 0] > 0.35 if close.objects.values[row] == 1 else None
        if bright is not None:
            assert bright[inside].float().mean() > 0.8


def test_windows_vary_with_the_generator_alone() -> None:
    one, two, other = (seen(seed).windows for seed in (1, 1, 2))
    assert one == two
    assert one != other
    widths = {window[0].stop - window[0].start for window in (*one, *other)}
    assert len(widths) > 3
    wide = {window[0].stop - window[0].start for window in seen(1, CLICKED).windows}
    assert max(wide) > max(widths)


def test_pasting_undoes_the_cutting() -> None:
    close = seen(4)
    logits = 10 * (2 * close.objects.masks[:, None].float() - 1)
    found = close.paste(logits) > 0
    overlap = 2 * (found & close.masks).sum((1, 2)) / (found.sum((1, 2)) + 120)
    assert overlap.min() > 0.85
    outside = torch.isneginf(close.paste(logits))
    for row, (rows, columns) in enumerate(close.windows):
        assert not outside[row, rows, columns].any()
        assert outside[row].sum() == SIZE**2 - (rows.stop - rows.start) * (
            columns.stop - columns.start
        )


def test_validation_looks_closely_and_compares_whole_images() -> None:
    model = module().eval()
    batch = batch_of("val", [0, 1])
    prediction = model.predict_batch(batch, torch.Generator().manual_seed(0))
    assert prediction.close_ups is not None
    found, truth = model.label_maps(prediction, batch)
    assert found.shape == batch.mask.shape
    assert torch.equal(truth, batch.mask)


@pytest.mark.parametrize(
    ("box_share", "zoom_share", "expected"),
    [(1.0, 0.0, {True}), (0.0, 0.0, {False}), (0.0, 1.0, {True}), (0.0, 0.5, {True, False})],
)
def test_boxes_and_a_share_of_the_clicks_are_looked_at_closely(
    box_share: float, zoom_share: float, expected: set[bool]
) -> None:
    model = module(box_share=box_share, zoom_share=zoom_share).train()
    batch = batch_of("train", [0])
    kinds = {
        model.predict_batch(batch, torch.Generator().manual_seed(seed)).close_ups is not None
        for seed in range(8)
    }
    assert kinds == expected


def test_a_zoomed_training_improves_and_its_file_says_how_to_look(tmp_path: Path) -> None:
    result = tiny_fit(
        tmp_path / "run",
        module=lambda: module(rounds=1, box_share=1.0),
        slices=ZoomedSquares(),
        trainer_max_epochs=11,
    )
    assert result.metrics["val/dice"] > 0.7
    predictor = ImagePredictor.from_pretrained(tmp_path / "run" / "adapter.safetensors")
    assert predictor.info is not None
    assert predictor.info.input.zoom == ZOOM
    pixels = np.round(255 * batch_of("val", [0]).image[0, 0].clamp(0, 1).numpy()).astype(np.uint8)
    mask = batch_of("val", [0]).mask[0].numpy() == 2
    rows, columns = np.argwhere(mask).min(axis=0), np.argwhere(mask).max(axis=0) + 1
    found = predictor.open(pixels).add_box((tuple(rows), tuple(columns))).mask()
    assert 2 * (found & mask).sum() / (found.sum() + mask.sum()) > 0.7


def test_training_and_description_must_look_alike(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="sees whole images"):
        tiny_fit(tmp_path / "automatic", slices=ZoomedSquares())
    with pytest.raises(InputError, match="the training looks with None"):
        tiny_fit(tmp_path / "whole", module=lambda: module(None), slices=ZoomedSquares())
