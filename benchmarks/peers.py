"""What segkit is compared with: installed packages, and checkouts named by the environment.

    DD_SAM2=... SAM3D_ADAPTER=... SAM_ADAPTER=... python -m benchmarks.bench_train

Nothing of them is part of segkit. A checkout that is not named is skipped; the commit that figures
were taken at stands in `tools.parity.harness.METHODS`.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import segkit.torchvision_compat  # noqa: F401 (before the originals import torchvision)
from segkit.backbones.sam_modules import SamModules, SamSizes
from tools.parity.harness import METHODS, import_file, import_package, stubs

OFFICIAL_SAM = "segment-anything 1.0"


def official_sam(sizes: SamSizes, *, seed: int = 0) -> Any:
    """The official `Sam` with random weights."""
    from segment_anything.modeling import Sam

    torch.manual_seed(seed)
    parts = SamModules(sizes)
    for parameter in parts.parameters():
        if not parameter.any():  # positions start at zero, which would hide their cost
            nn.init.normal_(parameter, std=0.02)
    return Sam(parts.image_encoder, parts.prompt_encoder, parts.mask_decoder).eval()


def checkout(method: str) -> Path | None:
    """Folder of a released implementation; None if its variable is not set."""
    folder = os.environ.get(METHODS[method][0])
    return None if folder is None else Path(folder)


def commit(method: str) -> str:
    """Repository and commit of a released implementation."""
    return METHODS[method][1]


def dd_adapter(root: Path) -> Callable[..., nn.Module]:
    """DD-SAM2's depthwise-dilated module, of `input_dim` channels."""
    needed = {"sam2.modeling.sam.transformer": {"TwoWayAttentionBlock": object}}
    with stubs({"sam2": {}, "sam2.modeling": {}, "sam2.modeling.sam": {}} | needed):
        return import_file(root / "sam2" / "adapter_ap.py", "dd_sam2_adapter").DD_Adapter


def spatial_adapter(root: Path) -> Callable[..., nn.Module]:
    """3DSAM-adapter's spatial module, of widths (outside, inside)."""
    path = root / "3DSAM-adapter" / "modeling" / "image_encoder.py"
    return import_file(path, "sam3d_adapter_encoder").Adapter


def prompt_generator(root: Path) -> Callable[..., Any]:
    """SAM-Adapter's generator of high-frequency prompts."""
    import_package(root / "models" / "mmseg" / "models" / "sam", "sam_adapter_sam", run_init=False)
    return __import__("sam_adapter_sam.image_encoder", fromlist=["x"]).PromptGenerator
