import logging
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

pytest.importorskip("onnxruntime", reason="needs segkit[int8]")
import onnx

from segkit.adapters import (
    Adapter,
    DepthwiseDilated,
    DynamicPrompts,
    Frequency,
    HighFrequency,
    LoRA,
    Spatial,
)
from segkit.backbones import onnx_graph
from segkit.backbones.onnx_file import EncoderRecord
from segkit.backbones.onnx_graph import export_graph
from segkit.backbones.sam import SamBackbone
from segkit.backbones.sam2 import Sam2Backbone
from segkit.errors import CheckpointError, InputError, MissingExtraError
from segkit.models import onnx_encoder
from segkit.models.onnx_encoder import OnnxBackbone, has_int8_products, tell_speed
from segkit.typing import Grid

ADAPTERS = [DepthwiseDilated, DynamicPrompts, Frequency, HighFrequency, LoRA, Spatial]
RECORD = EncoderRecord("sam_tiny", "", "int8", 64, {})
GRID = Grid((1, 64, 64))


@pytest.fixture(scope="module")
def backbone() -> SamBackbone:
    found = SamBackbone.tiny(DepthwiseDilated).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in found.adapter.parameters():  # a fresh adapter may do nothing
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return found


@pytest.fixture(scope="module")
def graphs(backbone: SamBackbone) -> dict[str, bytes]:
    """Both precisions from one export, which takes most of the time."""
    made: dict[str, bytes] = {}
    with pytest.MonkeyPatch.context() as patch:
        quantise = onnx_graph.quantised
        patch.setattr(
            onnx_graph,
            "quantised",
            lambda path: made.update(float32=path.read_bytes()) or quantise(path),
        )
        made["int8"] = export_graph(backbone, 64, "int8")
    return made


@pytest.fixture(scope="module")
def int8(backbone: SamBackbone, graphs: dict[str, bytes]) -> OnnxBackbone:
    return OnnxBackbone(graphs["int8"], backbone, RECORD)


def images(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@torch.no_grad()
def test_float32_graphs_compute_what_encoder_and_adapter_do(
    backbone: SamBackbone, graphs: dict[str, bytes]
) -> None:
    exported = OnnxBackbone(graphs["float32"], backbone, RECORD)
    wanted = backbone(images(), GRID).levels
    found = exported(images(), GRID)
    assert found.grid == GRID
    assert len(found.levels) == len(wanted) == 1
    assert error(found.levels[0], wanted[0]) < 1e-5
    assert [one.name for one in exported.session.get_outputs()] == ["image_embeddings"]
    bare = SamBackbone.tiny(Adapter)(images(), GRID).levels[0]
    assert error(bare, wanted[0]) > 0.1  # the adapter counts


@torch.no_grad()
def test_int8_graphs_come_near(backbone: SamBackbone, int8: OnnxBackbone) -> None:
    off = error(int8(images(), GRID).levels[0], backbone(images(), GRID).levels[0])
    assert 1e-4 < off < 0.05


def test_every_product_with_weights_of_the_encoder_is_in_bytes(
    backbone: SamBackbone, graphs: dict[str, bytes]
) -> None:
    graph = onnx.load_from_string(graphs["int8"]).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("MatMulInteger") >= 4 * len(backbone.encoder.blocks)
    stored = {one.name: onnx.TensorProto.DataType.Name(one.data_type) for one in graph.initializer}
    assert {kind for name, kind in stored.items() if name.endswith("_quantized")} == {"UINT8"}
    assert len(graphs["int8"]) < 0.8 * len(graphs["float32"])


def test_it_has_the_place_of_the_backbone_without_its_weights(
    backbone: SamBackbone, int8: OnnxBackbone
) -> None:
    assert int8.spec == backbone.spec
    assert int8.trained_parts == {"adapter": backbone.adapter}
    assert int8.device == torch.device("cpu")
    assert not int8.has_stem
    assert not int8.is_fixed
    assert int8.frozen_blocks == 0
    assert not list(int8.encoder.parameters())


def test_what_it_was_not_exported_for_is_refused(int8: OnnxBackbone) -> None:
    with pytest.raises(InputError, match=r"exported for single images of 64 x 64 pixels, got"):
        int8(torch.rand(1, 3, 72, 72), Grid((1, 72, 72)))
    with pytest.raises(InputError, match="with depth 2"):
        int8(images(), Grid((2, 64, 64)))
    with pytest.raises(InputError, match="has no gradients; take the model as it is"):
        int8(images().requires_grad_(), GRID)
    with pytest.raises(InputError, match="predicts and cannot be trained"):
        int8.train()
    assert not int8.eval().training


def test_threads_share_it(int8: OnnxBackbone) -> None:
    several = [torch.rand(1, 3, 64, 64) for _ in range(8)]
    wanted = [int8(one, GRID).levels[0] for one in several]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda one: int8(one, GRID).levels[0], several))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_what_is_no_graph_is_refused(backbone: SamBackbone) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read the graph: .*; export it again"):
        OnnxBackbone(b"not a graph", backbone, RECORD)


def test_graphs_cannot_read_other_files(backbone: SamBackbone) -> None:
    weight = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=1)
    entry = weight.external_data.add()
    entry.key, entry.value = "location", __file__
    node = onnx.helper.make_node("Add", ["image", "w"], ["y"])
    names = [onnx.helper.make_tensor_value_info(name, 1, [4]) for name in ("image", "y")]
    graph = onnx.helper.make_graph([node], "g", names[:1], names[1:], [weight])
    model = onnx.helper.make_model(graph, ir_version=10)
    with pytest.raises(CheckpointError, match="External data path validation failed"):
        OnnxBackbone(model.SerializeToString(), backbone, RECORD)


def test_a_missing_runtime_names_the_extra(
    backbone: SamBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"segkit\[int8\]"):
        OnnxBackbone(b"", backbone, RECORD)


@pytest.mark.parametrize(
    ("features", "known"),
    [
        ({"architecture": "x86_64", "avx2": True, "avx512_vnni": False}, False),
        ({"architecture": "x86_64", "avx512_4vnniw": True}, False),
        ({"architecture": "x86_64", "avx_vnni": True}, True),
        ({"architecture": "x86_64", "avx512_vnni": True}, True),
        ({"architecture": "aarch64"}, None),
    ],
)
def test_int8_without_vnni_is_told(
    features: dict[str, object],
    known: bool | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features, raising=False)
    assert has_int8_products() is known
    with caplog.at_level(logging.INFO, logger=onnx_encoder.__name__):
        tell_speed("int8")
        tell_speed("float32")
    assert len(caplog.messages) == (known is False)
    assert all("no VNNI" in one and "hardly be faster" in one for one in caplog.messages)


@pytest.mark.slow
@torch.no_grad()
def test_weights_that_need_files_of_their_own_on_the_way_end_in_one(
    backbone: SamBackbone, graphs: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_graph, "LARGEST_BYTES", 100_000)
    graph = export_graph(backbone, 64, "int8")
    found = OnnxBackbone(graph, backbone, RECORD)(images(), GRID).levels[0]
    wanted = OnnxBackbone(graphs["int8"], backbone, RECORD)(images(), GRID).levels[0]
    assert error(found, wanted) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.__name__)
@pytest.mark.parametrize("family", [SamBackbone, Sam2Backbone])
@torch.no_grad()
def test_every_adapter_is_merged_in(
    family: type[SamBackbone | Sam2Backbone], adapter: type[Adapter]
) -> None:
    try:
        backbone = family.tiny(adapter).eval()
    except ValueError as reason:
        pytest.skip(f"not made for it: {reason}")
    generator = torch.Generator().manual_seed(1)
    for parameter in backbone.adapter.parameters():
        parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    exported = OnnxBackbone(export_graph(backbone, 64, "float32"), backbone, RECORD)
    wanted, found = backbone(images(), GRID).levels, exported(images(), GRID).levels
    assert all(error(a, b) < 1e-4 for a, b in zip(found, wanted, strict=True))
    assert exported.session.get_outputs()[-1].name == "image_embeddings"
