import sys

import pytest
import torch

from segkit.adapters import Adapter
from segkit.backbones import onnx_graph
from segkit.backbones.onnx_graph import export_graph, plain_block
from segkit.backbones.sam import SamBackbone
from segkit.backbones.sam3d import Sam3dBackbone
from segkit.errors import InputError, MissingExtraError


@pytest.mark.parametrize("stretch", [1, 24, 1024])
@pytest.mark.parametrize("index", [0, 1])
def test_plain_blocks_compute_what_upstream_s_blocks_do(
    stretch: int, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_graph, "_STRETCH", stretch)
    block = SamBackbone.tiny(Adapter).encoder.blocks[index]
    assert (block.window_size == 0) == (index == 1)
    tokens = torch.rand(1, 8, 8, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(plain_block(block, tokens), block(tokens))


def test_what_cannot_be_exported_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = SamBackbone.tiny(Adapter)
    with pytest.raises(InputError, match=r"one of \('int8', 'float32'\), got 'int4'"):
        export_graph(backbone, 64, "int4")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="side must be a multiple of 8, got 60"):
        export_graph(backbone, 60, "int8")
    with pytest.raises(InputError, match="SAM and SAM 2 can be exported, got Sam3dBackbone"):
        export_graph(Sam3dBackbone.tiny(Adapter), 64, "int8")
    monkeypatch.setattr(onnx_graph, "LARGEST_BYTES", 1000)
    with pytest.raises(InputError, match=r"holds 2 GiB, the float32 weights.*export it as int8"):
        export_graph(backbone, 64, "float32")


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_names_the_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"'{package}'.*segkit\[int8\]"):
        export_graph(SamBackbone.tiny(Adapter), 64, "int8")
