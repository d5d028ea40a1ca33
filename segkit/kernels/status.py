"""Which fused kernels run on a device, and what keeps the others from it."""

import torch

from segkit.kernels import attention, dilated, field, highpass, prompted, spatial3d
from segkit.kernels.dispatch import problem_of, why_not_triton

CHECKS = {
    "attention with relative positions": attention.self_check,
    "dilated bottleneck": dilated.self_check,
    "spatial bottleneck": spatial3d.self_check,
    "prompts in a bottleneck": prompted.self_check,
    "high-pass image": highpass.self_check,
    "field of a mask": field.self_check,
}
"""Name and check of every kernel."""


def states(device: torch.device, dtype: torch.dtype = torch.float32) -> dict[str, str]:
    """Per kernel "works", or why its reference is used; compiles what was not used before."""
    obstacle = why_not_triton(torch.empty(0, dtype=dtype, device=device))
    return {
        name: obstacle or problem_of(check, device, dtype) or "works"
        for name, check in CHECKS.items()
    }
