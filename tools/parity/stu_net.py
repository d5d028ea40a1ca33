"""STU-Net: the whole network at a small size."""

from collections.abc import Iterator
from pathlib import Path

import torch

from segkit.baselines.stunet import STU_NET_TINY, StuNet
from tools.parity.harness import Case, copied, images, import_file, randomise, stubs


def cases(root: Path) -> Iterator[Case]:
    """Outputs of all resolutions."""
    folder = root / "nnUNet-2.2" / "nnunetv2" / "training" / "nnUNetTrainer"
    trainer = {"nnunetv2.training.nnUNetTrainer.nnUNetTrainer": {"nnUNetTrainer": object}}
    parents = ("nnunetv2", "nnunetv2.training", "nnunetv2.training.nnUNetTrainer")
    with stubs({name: {} for name in parents} | trainer):
        released = import_file(folder / "STUNetTrainer.py", "stu_net_trainer")
    theirs = released.STUNet(
        1, 2, depth=[1] * 6, dims=list(STU_NET_TINY.widths), pool_op_kernel_sizes=[[2, 2, 2]] * 5,
        conv_kernel_sizes=[[3, 3, 3]] * 6, enable_deep_supervision=True,
    ).eval()  # fmt: skip
    torch.manual_seed(0)
    ours = StuNet(STU_NET_TINY, outputs=2).eval()
    randomise(theirs)
    pairs = copied(list(theirs.parameters()), list(ours.parameters()))
    yield Case("network, five outputs", theirs, ours, [images(1, 1, 64, 64, 64)], pairs)
