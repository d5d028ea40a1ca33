"""An exported encoder in the place of a backbone: ONNX Runtime on the CPU, prediction only."""

import logging
from types import ModuleType
from typing import Any, Self

import torch
from torch import nn
from typing_extensions import override

from segkit.backbones.base import Backbone, Stem
from segkit.backbones.onnx_file import EncoderRecord
from segkit.backbones.onnx_graph import INPUT, Precision
from segkit.errors import CheckpointError, InputError, MissingExtraError
from segkit.typing import Features, Grid, Image

_LOG = logging.getLogger(__name__)
_DOT = ("avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8")
_FLOAT = "take the model as it is, without an exported encoder"


class OnnxBackbone(Backbone):
    """Run an exported graph instead of the encoder and the adapter it was made from.

    `like` is the backbone it was made from: specification and adapter are its own, so the trained
    weights are still described and saved, but its encoder is not kept. Images are encoded one at a
    time, always on the CPU, without gradients; threads are those of torch.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
        CheckpointError: ONNX Runtime cannot read the graph.
    """

    def __init__(self, graph: bytes, like: Backbone, record: EncoderRecord) -> None:
        nn.Module.__init__(self)
        self.spec, self.sha256, self.trainable = like.spec, like.sha256, False
        self.encoder, self.adapter = nn.Identity(), like.adapter
        self.record, self.side = record, record.side
        self.session = _session(graph)
        self.eval()

    @property
    @override
    def device(self) -> torch.device:
        return torch.device("cpu")

    @override
    def train(self, mode: bool = True) -> Self:
        if mode:
            raise InputError(
                "an exported encoder predicts and cannot be trained", fix=_FLOAT, code="exported"
            )
        return nn.Module.train(self, False)

    @override
    def forward(self, image: Image, grid: Grid, stem: Stem | None = None) -> Features:
        if image.shape[2:] != (self.side, self.side) or grid.depth != 1:
            raise InputError(
                f"this encoder was exported for single images of {self.side} x {self.side} "
                f"pixels, got {tuple(image.shape)} with depth {grid.depth}",
                fix=f"export one for that size, or {_FLOAT}",
                code="exported",
            )
        if image.requires_grad:
            raise InputError("an exported encoder has no gradients", fix=_FLOAT, code="exported")
        found = [self._run(one) for one in image.detach().float().cpu().split(1)]
        return Features(tuple(map(torch.cat, zip(*found, strict=True))), grid)

    def _run(self, image: Image) -> list[torch.Tensor]:
        return [torch.from_numpy(one) for one in self.session.run(None, {INPUT: image.numpy()})]


def tell_speed(precision: Precision) -> None:
    """Say so where int8 cannot be expected to be faster than float32."""
    if precision == "int8" and has_int8_products() is False:
        _LOG.warning(
            "this processor has no VNNI, which makes int8 fast: the encoder may hardly be faster "
            "here than the model's own or its float32 export"
        )


def has_int8_products() -> bool | None:
    """Whether the processor multiplies bytes four at a time (VNNI, AMX); None if unknown."""
    ask = getattr(torch.cpu, "get_capabilities", None)
    found: dict[str, Any] = {} if ask is None else ask()
    if found.get("architecture") != "x86_64":
        return None
    return any(found.get(name) for name in _DOT)


def import_onnxruntime() -> ModuleType:
    """Import ONNX Runtime; needs the extra `segkit[int8]`.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "int8") from error
    return onnxruntime


def _session(graph: bytes) -> Any:
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # its threads would go on spinning while torch decodes on the same cores
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # what goes wrong is raised
    try:
        session = runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except _faults(runtime) as error:
        reason = str(error).splitlines()[0][:200]
        raise CheckpointError(
            f"ONNX Runtime {runtime.__version__} cannot read the graph: {reason}",
            fix="export it again with: segkit convert --to int8 MODEL -o FILE",
            code="damaged_checkpoint",
        ) from error
    # it would hold the bytes of the file for good, for a change of providers
    session._model_bytes = None
    return session


def _faults(runtime: ModuleType) -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises; these classes have no base of their own."""
    state = runtime.capi.onnxruntime_pybind11_state
    names = ("EPFail", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf")
    found = [getattr(state, name) for name in (*names, "NotImplemented", "RuntimeException")]
    return (RuntimeError, ValueError, *found)
