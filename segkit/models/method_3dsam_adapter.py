"""3DSAM-adapter as a method: its parts on a volumetric backbone, as counted in publications."""

import difflib
from collections.abc import Mapping
from functools import partial

import torch
from torch import nn

from segkit.adapters import Spatial
from segkit.adapters.base import Compat
from segkit.errors import InputError
from segkit.models.build3d import SAM3D_BUILDERS
from segkit.prompts.sampler import PointSampler


def build_3dsam_adapter(compat: Compat | None, backbone: str) -> Mapping[str, nn.Module]:
    """Modules by part; the released form also holds what its code builds and never uses.

    Unused there are three of four point encoders, which are trained and saved all the same, and one
    constant per block that scales relative positions.

    Raises:
        InputError: The backbone is not a volumetric one.
    """
    if backbone not in SAM3D_BUILDERS:
        near = difflib.get_close_matches(backbone, SAM3D_BUILDERS, n=1)
        raise InputError(
            f"3dsam-adapter needs a volumetric backbone, got {backbone!r}",
            fix=f"did you mean {near[0]!r}?" if near else f"available: {sorted(SAM3D_BUILDERS)}",
        )
    with torch.device("meta"):
        adapter = partial(Spatial, compat=compat)
        builder = SAM3D_BUILDERS[backbone]
        segmenter = builder(checkpoint="random", adapter=adapter, compat=compat)
        encoder, lift = segmenter.backbone.encoder, segmenter.backbone.trained_parts["lift"]
        parts: dict[str, nn.Module] = {
            "encoder": encoder,
            "adapter": segmenter.backbone.adapter,
            **_lift_parts(lift),
            "prompt_encoder": segmenter.prompt_encoder,
            "decoder": segmenter.decoder,
        }
        if compat == "authors":
            idle = [PointSampler(segmenter.spec, compat=compat) for _ in range(3)]
            depth = builder.sizes.sam.depth
            scales = nn.ParameterList(
                nn.Parameter(torch.ones(()), requires_grad=False) for _ in range(depth)
            )
            parts |= {"unused_prompt_encoders": nn.ModuleList(idle), "constant_scales": scales}
    return parts


def _lift_parts(lift: nn.Module) -> dict[str, nn.Module]:
    """The lift in the rows of the published count."""
    named = dict(lift.named_parameters())
    rows = {
        "neck_3d": lambda name: name.startswith("necks."),
        "norms": lambda name: ".norm" in name,
        "rel_pos_d": lambda name: name.endswith("rel_pos_d"),
        "slice_embedding": lambda name: name.startswith("slice_embed."),
        "depth_embedding": lambda name: name == "depth_embed",
    }
    return {
        row: nn.ParameterList(p for name, p in named.items() if belongs(name))
        for row, belongs in rows.items()
    }
