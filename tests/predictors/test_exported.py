import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("onnxruntime", reason="needs segkit[int8]")

from segkit.backbones.onnx_file import read_encoder, write_encoder
from segkit.backbones.onnx_graph import export_graph
from segkit.data.preprocess import InputSpec
from segkit.data.zoom import Zoom
from segkit.errors import CheckpointError, InputError
from segkit.models import build
from segkit.models.files import save_adapter
from segkit.models.info import ModelInfo
from segkit.models.onnx_encoder import OnnxBackbone
from segkit.models.segmenter import Segmenter
from segkit.predictors import ImagePredictor, exported
from segkit.predictors.base import Predictor, encoder_report
from segkit.predictors.exported import Gate, export_encoder, use_encoder, weights_sha256
from segkit.predictors.video import VideoPredictor

PICTURE = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def graph() -> bytes:
    return export_graph(build.sam_tiny().eval().backbone, 64, "int8")


@pytest.fixture(autouse=True)
def calls(graph: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """Export the same tiny encoder once for all tests; a cache of their own."""
    made: list[tuple[int, str]] = []

    def export(backbone: object, side: int, precision: str) -> bytes:
        made.append((side, precision))
        return graph

    monkeypatch.setattr(exported, "export_graph", export)
    monkeypatch.setenv("SEGKIT_HOME", str(tmp_path / "home"))
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    export_encoder(build.sam_tiny(), None, path := tmp_path / "tiny.onnx")
    return path


def automatic() -> Segmenter:
    torch.manual_seed(0)  # of the class queries
    return build.sam_tiny(classes=2)


def test_what_is_exported_says_what_it_is(file: Path) -> None:
    record = read_encoder(file)[1]
    assert (record.backbone, record.precision, record.side) == ("sam_tiny", "int8", 64)
    assert record.weights_sha256 == weights_sha256(build.sam_tiny())
    assert record.made_with.keys() == {"torch", "onnx", "onnxscript", "onnxruntime"}
    facts = record.agreement
    assert 0.98 <= facts["mean_iou"] < 1
    assert (facts["data"], facts["pictures"]) == ("phantoms", 8)
    assert facts["masks"] > 30


def test_masks_are_nearly_those_of_the_model(file: Path) -> None:
    mine = ImagePredictor.from_pretrained("sam_tiny")
    theirs = ImagePredictor.from_pretrained("sam_tiny", encoder=file)
    logits = []
    for predictor in (mine, theirs):
        predictor.set_image(PICTURE)
        logits.append(predictor.predict(np.array([[30, 20]]), np.array([1]))[2])
    assert not np.array_equal(*logits)
    np.testing.assert_allclose(*logits, atol=0.1 * np.abs(logits[0]).max())


def test_below_the_gate_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError) as refusal:
        export_encoder(build.sam_tiny(), None, out := tmp_path / "x.onnx", gate=Gate(1.0))
    assert refusal.value.code == "encoder_differs"
    assert "required is a mean of 1.0; use float32; or compare on" in str(refusal.value)
    assert not out.exists()


def test_pictures_of_the_user_are_compared(tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(path := tmp_path / "a.png")
    gate = Gate(0.0, [path])
    record = export_encoder(automatic(), None, tmp_path / "x.onnx", gate=gate)
    assert record.agreement["data"] == "1 files"
    assert record.agreement["masks"] <= 2  # classes


@pytest.mark.parametrize("options", [{"least_iou": 1.2}, {"least_iou": -0.1}, {"pictures": 0}])
def test_gates_that_mean_nothing_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match="least IoU must be in"):
        Gate(**options)  # type: ignore[arg-type]


def test_other_weights_are_refused_with_both_hashes(file: Path) -> None:
    other = build.sam_tiny(checkpoint="random:1")
    with pytest.raises(CheckpointError) as refusal:
        use_encoder(other, None, file)
    assert refusal.value.code == "other_backbone"
    assert weights_sha256(build.sam_tiny()) in str(refusal.value)
    assert weights_sha256(other) in str(refusal.value)
    assert not isinstance(other.backbone, OnnxBackbone)


def test_another_adapter_is_another_encoder(file: Path) -> None:
    from segkit.adapters import DepthwiseDilated

    with pytest.raises(CheckpointError, match="was exported from weights with sha256"):
        use_encoder(build.sam_tiny(adapter=DepthwiseDilated), None, file)


def test_another_size_is_refused(file: Path) -> None:
    segmenter = build.sam_tiny()
    info = ModelInfo.of(segmenter, input=InputSpec(2, 96, "rgb"))
    with pytest.raises(CheckpointError, match="for images of 64 pixels, this model reads 96"):
        use_encoder(segmenter, info, file)


def test_models_of_blocks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="this one sees blocks"):
        export_encoder(build.sam3d_tiny(), None, tmp_path / "x.onnx")


@pytest.mark.parametrize("size", [32, 64])
def test_windows_of_another_size_than_the_slices_are_refused(size: int, file: Path) -> None:
    model = build.sam_tiny()
    info = ModelInfo.of(model, input=InputSpec(2, 64, "repeat", zoom=Zoom(2.0, size)))
    if size == 64:
        use_encoder(model, info, file)
    else:
        with pytest.raises(InputError, match="slices of 64 and windows of 32"):
            use_encoder(model, info, file)


def test_what_was_made_once_is_found_again(
    calls: list[tuple[int, str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="segkit"):
        Predictor.from_pretrained("sam_tiny", encoder="int8")
        Predictor.from_pretrained("sam_tiny", encoder="int8")
    assert calls == [(64, "int8")]
    (kept,) = (tmp_path / "home" / "encoders").iterdir()
    assert kept.name.startswith("sam_tiny-64-")
    assert sum("once for these weights" in one for one in caplog.messages) == 1
    assert sum(one.startswith(f"encoder {kept}: sam_tiny in int8") for one in caplog.messages) == 2
    kept.write_bytes(kept.read_bytes()[:-1])
    Predictor.from_pretrained("sam_tiny", encoder="int8")
    assert len(calls) == 2
    assert "it is made again" in caplog.text
    Predictor.from_pretrained("sam_tiny", encoder="float32")
    assert calls[2] == (64, "float32")


def test_kept_files_go_by_weights(calls: list[tuple[int, str]]) -> None:
    use_encoder(build.sam_tiny(), None, "int8")
    with pytest.raises((InputError, CheckpointError)):
        # the graph of other weights does not agree
        use_encoder(build.sam_tiny(checkpoint="random:1"), None, "int8")
    assert len(calls) == 2


def test_adapted_models_keep_what_was_trained(tmp_path: Path) -> None:
    segmenter = automatic()
    info = ModelInfo.of(segmenter, labels={1: "a", 2: "b"}, input=InputSpec(2, 64, "rgb"))
    save_adapter(path := tmp_path / "adapter.safetensors", segmenter, info)
    export_encoder(segmenter, info, file := tmp_path / "tiny.onnx", gate=Gate(0.9))
    wanted = Predictor.from_pretrained(path).segment(PICTURE)
    predictor = Predictor.from_pretrained(path, encoder=file)
    assert isinstance(predictor.segmenter.backbone, OnnxBackbone)
    assert float((predictor.segment(PICTURE) == wanted).mean()) > 0.95
    # it can still be described and saved
    state = predictor.segmenter.trainable_state()
    assert state.keys() == segmenter.trainable_state().keys()
    assert all(torch.equal(state[key], value) for key, value in segmenter.trainable_state().items())


def test_other_devices_are_refused(file: Path) -> None:
    with pytest.raises(InputError, match="runs on the CPU, got device 'cuda'; leave encoder out"):
        Predictor.from_pretrained("sam_tiny", encoder=file, device="cuda")


def test_reports_name_the_encoder(file: Path) -> None:
    record = read_encoder(file)[1]
    predictor = Predictor.from_pretrained("sam_tiny", encoder=file)
    assert encoder_report(predictor.segmenter) == {"encoder": record.to_dict()}
    assert encoder_report(build.sam_tiny()) == {}


def test_files_that_only_claim_to_fit_are_held_to_their_graph(file: Path, tmp_path: Path) -> None:
    write_encoder(path := tmp_path / "claims.onnx", b"no graph", read_encoder(file)[1])
    with pytest.raises(CheckpointError, match="cannot read the graph"):
        use_encoder(build.sam_tiny(), None, path)


def test_what_was_accepted_below_the_bound_says_so_each_time(
    file: Path, graph: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    use_encoder(build.sam_tiny(), None, file)
    assert "was accepted although" not in caplog.text
    record = read_encoder(file)[1]
    poor = replace(record, agreement={**record.agreement, "mean_iou": 0.9})
    write_encoder(other := file.with_name("poor.onnx"), graph, poor)
    use_encoder(build.sam_tiny(), None, other)
    assert f"{other} was accepted although its masks differ" in caplog.text


@pytest.mark.parametrize("change", [{"mean_iou": "high"}, {"more": 1}, {"masks": 1.5}])
def test_agreements_of_another_form_are_refused(file: Path, change: dict[str, object]) -> None:
    record = read_encoder(file)[1]
    wrong = replace(record, agreement={**record.agreement, **change})
    write_encoder(other := file.with_name("other.onnx"), b"graph", wrong)
    with pytest.raises(CheckpointError, match="its agreement must hold exactly"):
        use_encoder(build.sam_tiny(), None, other)


def test_videos_are_encoded_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[object, ...]] = []
    monkeypatch.setattr(exported, "use_encoder", lambda *args: seen.append(args))
    predictor = VideoPredictor.from_pretrained("sam2_test", encoder="float32")
    assert seen == [(predictor.tracker.segmenter, None, "float32")]
    assert predictor.device == torch.device("cpu")
    with pytest.raises(InputError, match="runs on the CPU"):
        VideoPredictor.from_pretrained("sam2_test", encoder="int8", device="cuda")


@pytest.mark.slow
def test_a_clip_is_followed_as_with_the_model_s_own_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exported, "export_graph", export_graph)
    mine = VideoPredictor(build.sam2_test.tracker())
    theirs = VideoPredictor(build.sam2_test.tracker())
    file, segmenter = tmp_path / "x.onnx", theirs.tracker.segmenter
    export_encoder(segmenter, None, file, "float32", gate=Gate(0.0))
    use_encoder(segmenter, None, file)
    clip = np.random.default_rng(0).integers(0, 255, (4, 48, 64), dtype=np.uint8)
    masks = []
    for predictor in (mine, theirs):
        session = predictor.open(clip)
        session.add_points([(20, 30)], [1], frame=0, object_id=1)
        masks.append(np.stack([found.masks[1] for found in session.propagate()]))
    assert masks[0].shape == (4, 48, 64)
    assert (masks[0] == masks[1]).mean() > 0.999
