"""Weights of a trained STU-Net as the start of another one."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from segkit.baselines.stunet import StuNetBody

HEADS = "seg_outputs."
STEM = tuple(f"conv_blocks_context.0.0.{name}.weight" for name in ("conv1", "conv3"))


def without_heads(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All but the output layers, which belong to the classes they were trained for."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(HEADS)}


def fit_stem(
    state: Mapping[str, Tensor], body: StuNetBody, compat: Literal["authors"] | None = None
) -> dict[str, Tensor]:
    """Repeat the first layer of a one-channel network over the input channels of `body`.

    Divided by their number, so that equal channels give the output of the one-channel network; the
    released code ("authors") does not divide.
    """
    own, fitted = body.state_dict(), dict(state)
    for name in STEM:
        if name not in state or state[name].shape[1:2] != (1,):
            continue
        channels = own[name].shape[1]
        weight = state[name].repeat_interleave(channels, dim=1)
        fitted[name] = weight if compat == "authors" else weight / channels
    return fitted
