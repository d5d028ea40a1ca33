"""Contenders of the kernel table that are not ours: modules of checkouts, compiled and plain torch.

Checkouts are named by environment variables and are not part of segkit: DD_SAM2, SAM3D_ADAPTER,
SAM_ADAPTER, SAM_FAST (segment-anything-fast).
"""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpu import Call


def released(variable: str, load: Callable[[Path], Call]) -> tuple[dict[str, Call], dict[str, str]]:
    """The authors' module, or why it is not here."""
    if variable not in os.environ:
        return {}, {"authors": f"{variable} names no checkout"}
    try:
        return {"authors": load(Path(os.environ[variable]))}, {}
    except Exception as reason:  # a checkout that does not import is a row of the table
        return {}, {"authors": f"{type(reason).__name__}: {str(reason)[:120]}"}


def compiled(call: Call, *, is_dry: bool) -> Call:
    """`torch.compile` at its best; a dry run only traces."""
    if is_dry:
        return torch.compile(call, backend="eager")  # type: ignore[return-value]
    return torch.compile(call, mode="max-autotune-no-cudagraphs")  # type: ignore[return-value]


def dilated(root: Path) -> Call:
    """DD-SAM2's parallel module with the residual that its block adds."""
    from tools.parity.harness import import_file, stubs

    needed = {"sam2.modeling.sam.transformer": {"TwoWayAttentionBlock": object}}
    with stubs({"sam2": {}, "sam2.modeling": {}, "sam2.modeling.sam": {}} | needed):
        module = import_file(root / "sam2" / "adapter_ap.py", "dd_sam2_adapter")

    def call(x: Tensor, *weights: Tensor) -> Tensor:
        wd, bd, *convs, wu, bu = weights
        given = [wd[:, :, None, None], bd, *convs, wu[:, :, None, None], bu]
        return x + _with(_kept(module.DD_Adapter, x.shape[-1]), given, x)

    return call


def spatial(root: Path) -> Call:
    """3DSAM-adapter's module; it adds its residual itself."""
    from tools.parity.harness import import_file

    path = root / "3DSAM-adapter" / "modeling" / "image_encoder.py"
    adapter = import_file(path, "sam3d_adapter_encoder").Adapter

    def call(x: Tensor, *weights: Tensor) -> Tensor:
        return _with(_kept(adapter, x.shape[-1], len(weights[0])), weights, x)

    return call


def fast_attention(root: Path) -> Call:
    """Flash attention of segment-anything-fast; forward only, grids of 64 x 64."""
    sys.path.insert(0, str(root))
    flash = importlib.import_module("segment_anything_fast.flash_4")

    def call(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
        of_rows, of_cols = biases(q, rows, cols)
        return flash._attention_rel_h_rel_w(q, k, v, of_rows[..., None], of_cols[..., None, :])

    return call


def masked_attention(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """Torch's fused attention with the matrix of biases."""
    of_rows, of_cols = biases(q, rows, cols)
    mask = (of_rows[..., None] + of_cols[..., None, :]).flatten(3)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def flex_attention(*, is_dry: bool) -> Call:
    """FlexAttention whose score function reads both biases."""
    from torch.nn.attention.flex_attention import flex_attention as flex

    run: Any = flex if is_dry else torch.compile(flex)

    def call(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
        of_rows, of_cols = biases(q, rows, cols)
        width = len(cols)

        def score(s: Tensor, n: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return s + of_rows[n, head, i, j // width] + of_cols[n, head, i, j % width]

        found = run(q, k, v, score_mod=score)
        assert isinstance(found, Tensor)
        return found

    return call


def biases(q: Tensor, rows: Tensor, cols: Tensor) -> tuple[Tensor, Tensor]:
    """Products of queries with row and column positions, [n heads tokens side]."""
    grid = q.unflatten(2, (len(rows), len(cols)))
    return (
        torch.einsum("nhxyc,xkc->nhxyk", grid, rows).flatten(2, 3),
        torch.einsum("nhxyc,ykc->nhxyk", grid, cols).flatten(2, 3),
    )


_MODULES: dict[tuple[Any, ...], nn.Module] = {}


def _kept(make: Any, *sizes: int) -> nn.Module:
    key = (make, *sizes)
    if key not in _MODULES:
        _MODULES[key] = make(*sizes).requires_grad_(False)
    return _MODULES[key]


def _with(module: nn.Module, weights: Sequence[Tensor], x: Tensor) -> Tensor:
    """Run a module with other parameters, in order, so that gradients reach those."""
    named = dict(zip([name for name, _ in module.named_parameters()], weights, strict=True))
    result = torch.func.functional_call(module, named, (x,))
    assert isinstance(result, Tensor)
    return result
