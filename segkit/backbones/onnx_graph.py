"""An encoder with its adapter as one ONNX graph, float32 or with int8 products.

Quantisation is dynamic: weights are rounded once, per output channel, activations in every run by
the range they have there. Nothing is calibrated, so no picture decides about another one. Weights
are stored unsigned: the products of unsigned with signed bytes saturate on processors without VNNI,
those of unsigned bytes do not, and give the same sums everywhere.
"""

import contextlib
import copy
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Literal, get_args

import torch
from jaxtyping import Float
from segment_anything.modeling.image_encoder import Attention, Block, get_rel_pos
from torch import Tensor, nn
from typing_extensions import override

from segkit.backbones.base import Backbone
from segkit.backbones.sam import SamBackbone, attended
from segkit.backbones.sam2 import Sam2Backbone
from segkit.errors import InputError, MissingExtraError
from segkit.typing import Grid, Image, Tokens

Precision = Literal["int8", "float32"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
LARGEST_BYTES = 2**31 - 2**20
"""What one ONNX file holds, by the format it is written in."""
INPUT, EMBEDDING = "image", "image_embeddings"

_OPSET = 20
_STRETCH = 1024
"""Queries whose scores exist at once."""


def export_graph(backbone: Backbone, side: int, precision: Precision) -> bytes:
    """Write what `backbone` computes for one image of `side` x `side` pixels as an ONNX graph.

    The input is `image` with values in [0, 1]; the outputs are the levels of the features, finest
    first: `image_embeddings`, and before it `high_res_0` and `high_res_1` of SAM 2.

    Raises:
        InputError: The backbone is not one of SAM or SAM 2, the size is no multiple of the patch,
            or the graph would not fit into one file.
        MissingExtraError: A package of the extra is not installed.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {PRECISIONS}, got {precision!r}")
    if not isinstance(backbone, SamBackbone | Sam2Backbone):
        raise InputError(
            f"encoders of SAM and SAM 2 can be exported, got {type(backbone).__name__}",
            fix="use the model as it is",
            code="not_exportable",
        )
    if side < 1 or side % backbone.spec.patch_size:
        raise InputError(f"side must be a multiple of {backbone.spec.patch_size}, got {side}")
    n_bytes = 4 * sum(one.numel() for one in backbone.parameters())
    if precision == "float32" and n_bytes > LARGEST_BYTES:
        raise InputError(
            f"an ONNX file holds 2 GiB, the float32 weights of {backbone.spec.name} take "
            f"{n_bytes:,} bytes",
            fix="export it as int8",
            code="too_large",
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "encoder.onnx"
        _export(_plain(backbone), side, path)
        if precision == "int8":
            path = quantised(path)
        return path.read_bytes()


class _Levels(nn.Module):
    """Tensors in, tensors out."""

    def __init__(self, backbone: Backbone, side: int) -> None:
        super().__init__()
        self.backbone, self.grid = backbone, Grid((1, side, side))

    @override
    def forward(self, image: Image) -> tuple[Tensor, ...]:
        return self.backbone(image, self.grid).levels


def _plain(backbone: Backbone) -> Backbone:
    """The same weights behind blocks that write nothing in place."""
    # shallow: the modules are shared, `block` is a plain attribute of the copy
    plain = copy.copy(backbone)
    if isinstance(plain, SamBackbone):
        plain.block = plain_block
        plain.checkpointing = False
    return plain


def _export(backbone: Backbone, side: int, path: Path) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        _import(name)
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    module = _Levels(backbone, side).eval()
    fine = ["high_res_0", "high_res_1"] if isinstance(backbone, Sam2Backbone) else []
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            module,
            (image,),
            dynamo=True,
            opset_version=_OPSET,
            input_names=[INPUT],
            output_names=[*fine, EMBEDDING],
            verbose=False,
        )
    assert program is not None
    n_bytes = 4 * sum(one.numel() for one in backbone.parameters())
    program.save(str(path), external_data=n_bytes > LARGEST_BYTES // 2)


def quantised(path: Path) -> Path:
    """Write a graph beside itself with its weights and their products in bytes."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    out = path.with_name("quantised.onnx")
    with _quiet():
        quantize_dynamic(
            path,
            out,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QUInt8,
        )
    return out


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep to themselves what exporter and quantiser print, log and warn of their own parts."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(before)


def _import(name: str) -> None:
    try:
        with _quiet():
            import_module(name)
    except ImportError as error:
        raise MissingExtraError(name, "int8") from error


def plain_block(block: Block, tokens: Tokens) -> Tokens:
    """Compute what upstream's block computes, nothing of it in place."""
    tokens = tokens + attended(block, tokens, _attend)
    return tokens + block.mlp(block.norm2(tokens))


def _attend(attn: Attention, qkv: Float[Tensor, "n h w width"]) -> Tokens:
    """Attention of windows or of a whole image, some rows of queries at a time."""
    n, h, w, _ = qkv.shape
    qkv = qkv.reshape(n, h * w, 3, attn.num_heads, -1)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # [n heads tokens channels]
    keys = k.transpose(2, 3) * k.shape[-1] ** -0.5
    # here, not in the loop: as constants of the graph they exist once
    tables = [
        get_rel_pos(side, side, table)
        for side, table in ((h, attn.rel_pos_h), (w, attn.rel_pos_w))
        if attn.use_rel_pos
    ]
    step = max(1, _STRETCH // w)
    found = []
    for start in range(0, h, step):
        rows = range(start, min(start + step, h))
        some = q[:, :, rows.start * w : rows.stop * w]
        scores = some @ keys
        if tables:
            tall, wide = tables
            grid = some.unflatten(2, (len(rows), w))
            scores = scores + _bias(grid, tall[rows.start : rows.stop], wide)
        found.append(scores.softmax(dim=-1) @ v)
    return torch.cat(found, dim=2).transpose(1, 2).reshape(n, h, w, -1)


def _bias(
    q: Float[Tensor, "n heads rows w c"],
    tall: Float[Tensor, "rows h c"],
    wide: Float[Tensor, "w w c"],
) -> Float[Tensor, "n heads queries keys"]:
    """What the relative positions add to the scores of some rows of queries."""
    along_rows = torch.einsum("nhxyc,xkc->nhxyk", q, tall)[..., :, None]
    along_cols = torch.einsum("nhxyc,ykc->nhxyk", q, wide)[..., None, :]
    return (along_rows + along_cols).flatten(4).flatten(2, 3)
