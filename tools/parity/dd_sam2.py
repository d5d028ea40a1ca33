"""DD-SAM2: its depthwise-dilated module in both forms, and its training with memory."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from segkit.adapters import DepthwiseDilated
from segkit.typing import BackboneSpec, BlockSpec
from tools.parity.harness import Case, copied, images, import_file, randomise, stubs

DIM = 32
SPEC = BackboneSpec("parity", 64, 8, (BlockSpec(DIM, DIM, 8),), DIM, 8)


def cases(root: Path) -> Iterator[Case]:
    """Branches summed, and in a chain; with the official sam2 package a training window."""
    needed = {"sam2.modeling.sam.transformer": {"TwoWayAttentionBlock": object}}
    with stubs({"sam2": {}, "sam2.modeling": {}, "sam2.modeling.sam": {}} | needed):
        released = import_file(root / "sam2" / "adapter_ap.py", "dd_sam2_adapter")
    yield _case("parallel branches", released.DD_Adapter(input_dim=DIM), "parallel")
    yield _case("branches in a chain", released.DD_Adapter_other_rate(DIM, [1, 3]), "serial")
    if importlib.util.find_spec("sam2") is None:
        print("dd_sam2: the sam2 package is absent, training window skipped")
        return
    from tools.parity import dd_sam2_training

    yield dd_sam2_training.case(root)


def _case(name: str, theirs: Any, topology: Any) -> Case:
    ours = DepthwiseDilated(SPEC, topology=topology, compat="authors")
    randomise(theirs)
    pairs = copied(list(theirs.parameters()), list(ours.parameters()))

    def run(tokens: Tensor) -> Tensor:
        # where the residual is added is not the module's business
        return ours.after(0, tokens, None) - tokens

    return Case(name, theirs, run, [images(2, 9, 7, DIM)], pairs)
