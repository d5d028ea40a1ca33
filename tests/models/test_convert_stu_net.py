from pathlib import Path

import pytest
import torch
from torch import Tensor

from segkit.backbones.checkpoints import file_sha256
from segkit.baselines.structures import STRUCTURES
from segkit.baselines.stunet import STU_NET_TINY, StuNet, fit_strides
from segkit.errors import CheckpointError
from segkit.models.conversion import convert
from segkit.models.files import load_adapter
from segkit.models.supervised import SUPERVISED
from segkit.typing import Grid

STRIDES = [[1, 2, 2], [2, 2, 2]]
PLAN = {
    "plans": {
        "configurations": {
            "3d_fullres": {
                "patch_size": [16, 32, 32],
                "spacing": [3.0, 1.0, 1.0],
                "pool_op_kernel_sizes": [[1, 1, 1], *STRIDES],
            }
        }
    },
    "configuration": "3d_fullres",
    "dataset_json": {"labels": {"background": 0, "tumour": 2, "liver": 1}},
}


def network(outputs: int) -> StuNet:
    torch.manual_seed(0)
    return StuNet(STU_NET_TINY, outputs=outputs, strides=fit_strides(STRIDES), init="nnunetv2")


def saved(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def version_1(state: dict[str, Tensor], path: Path) -> Path:
    """As nnU-Net 1 saves a `.model`: data-parallel names and logs beside the weights."""
    renamed = {f"module.{key}": value for key, value in state.items()}
    content = {"epoch": 4000, "state_dict": renamed, "plot_stuff": ([0.5], [], [], [])}
    return saved(content, path / "small_ep4k.model")


def version_2(state: dict[str, Tensor], path: Path) -> Path:
    content = {"network_weights": state, "init_args": PLAN, "current_epoch": 3, "_best_ema": 0.5}
    return saved(content, path / "checkpoint_final.pth")


@torch.no_grad()
def test_version_2_comes_with_its_plan_and_its_outputs(tmp_path: Path) -> None:
    net = network(3).eval()
    source = version_2(net.state_dict(), tmp_path)
    record = convert("stu-net", source, out := tmp_path / "net.safetensors")
    assert (record.backbone, record.tensors) == ("stu_net_tiny", 130)
    assert record.source_sha256 == file_sha256(source)
    assert not any("no plan" in note for note in record.notes)
    segmenter, info = load_adapter(out)
    assert info.labels == {1: "liver", 2: "tumour"}
    assert (info.input.patch, info.input.spacing_mm) == ((16, 32, 32), (3.0, 1.0, 1.0))
    image = torch.rand(8, 1, 16, 16)
    found = segmenter(image.expand(-1, 3, -1, -1), grid=Grid((8, 16, 16))).logits
    block = image.transpose(0, 1)[None]
    scores = net((block - block.mean()) / block.std())[0]
    torch.testing.assert_close(found, scores[:, 1:] - scores[:, :1], rtol=1e-4, atol=1e-4)


def test_version_1_has_the_names_of_the_published_structures(tmp_path: Path) -> None:
    source = version_1(network(105).state_dict(), tmp_path)
    record = convert("stu-net", source, out := tmp_path / "net.safetensors")
    assert any("no plan" in note for note in record.notes)
    assert any("compare them by name" in note for note in record.notes)
    _, info = load_adapter(out)
    assert info.labels == STRUCTURES
    assert (info.labels[40], info.labels[104]) == ("liver", "vertebrae_T9")
    assert info.input.spacing_mm == (1.5, 1.5, 1.5)


def test_a_converted_file_starts_a_fine_tuning(tmp_path: Path) -> None:
    net = network(105)
    convert("stu-net", version_1(net.state_dict(), tmp_path), out := tmp_path / "net.safetensors")
    segmenter = SUPERVISED["stu_net_tiny"](checkpoint=out, classes=2, network={"in_channels": 3})
    stem = segmenter.backbone.encoder.conv_blocks_context[0][0].conv1.weight
    expected = net.state_dict()["conv_blocks_context.0.0.conv1.weight"]
    torch.testing.assert_close(stem.sum(1, keepdim=True), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("upsample_layers.0.conv.bias"), "1 missing: upsample_layers.0"),
        (lambda state: state.update(extra=torch.zeros(1)), "1 unexpected: extra"),
        (
            lambda state: state.update({"seg_outputs.4.bias": torch.zeros(9)}),
            r"1 of another shape: seg_outputs.4.bias expected \(3,\), found \(9,\)",
        ),
    ],
)
def test_every_difference_of_keys_is_reported(tmp_path: Path, change: object, message: str) -> None:
    state = dict(network(3).state_dict())
    change(state)  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=f"not those of 'stu-net' on stu_net_tiny.*{message}"):
        convert("stu-net", saved(state, tmp_path / "x.pth"), tmp_path / "y.safetensors")


def test_a_strange_plan_and_strange_channels_are_refused(tmp_path: Path) -> None:
    state = network(3).state_dict()
    path = saved({"network_weights": state, "init_args": {"plans": 3}}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"x.pth: its nnU-Net plan cannot be understood"):
        convert("stu-net", path, tmp_path / "y.safetensors")
    two = StuNet(STU_NET_TINY, outputs=3, in_channels=2).state_dict()
    with pytest.raises(CheckpointError, match="2 input channels; segkit feeds 1 or 3"):
        convert("stu-net", saved(two, tmp_path / "z.pth"), tmp_path / "y.safetensors")
