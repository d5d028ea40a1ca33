"""Exported encoders for prediction: made, held against the float encoder, kept and used."""

import importlib.metadata
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from segkit.backbones.base import Backbone
from segkit.backbones.checkpoints import content_sha256
from segkit.backbones.onnx_file import EncoderRecord, read_encoder, write_encoder
from segkit.backbones.onnx_graph import PRECISIONS, Precision, export_graph
from segkit.data.preprocess import InputSpec
from segkit.data.volume import Picture, Volume
from segkit.errors import CheckpointError, InputError
from segkit.models.info import ModelInfo
from segkit.models.onnx_encoder import OnnxBackbone, import_onnxruntime, tell_speed
from segkit.models.segmenter import Segmenter
from segkit.models.weights import home_folder
from segkit.predictors import agreement
from segkit.predictors.agreement import Agreement, Example
from segkit.predictors.base import default_input
from segkit.predictors.watch import UNWATCHED, Watch

LEAST_IOU = 0.98
"""Mean IoU with the masks of the float encoder below which an exported one is refused."""

_LOG = logging.getLogger(__name__)
_MADE_WITH = ("torch", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True, slots=True)
class Gate:
    """What an exported encoder must pass before it is kept.

    `paths` are images and volumes whose masks are compared; without them procedural pictures are
    drawn. At most `pictures` are looked at.
    """

    least_iou: float = LEAST_IOU
    paths: Sequence[Path] = ()
    pictures: int = agreement.PICTURES

    def __post_init__(self) -> None:
        if not 0 <= self.least_iou <= 1 or self.pictures < 1:
            raise InputError(
                f"the least IoU must be in [0, 1] and pictures >= 1, got {self.least_iou} and "
                f"{self.pictures}"
            )

    def examples(self, segmenter: Segmenter, info: ModelInfo | None) -> list[Example]:
        """Pictures as the model sees them."""
        side = _side(segmenter, info)
        if not self.paths:
            return agreement.phantom_examples(side, self.pictures)

        def spec(source: Volume | Picture) -> InputSpec:
            return default_input(source, side) if info is None else info.input

        return agreement.file_examples(self.paths, spec, self.pictures)


def export_encoder(
    segmenter: Segmenter,
    info: ModelInfo | None,
    out: Path,
    precision: Precision = "int8",
    *,
    gate: Gate = Gate(),
    watch: Watch = UNWATCHED,
) -> EncoderRecord:
    """Write the encoder of a model, with its adapter as it stands, to a .onnx file.

    `info` says how the model reads images; None for a bare model known by name.

    Raises:
        InputError: The model has no encoder that can be exported, or the masks on the exported one
            differ from its own by more than `gate` allows. Nothing is written then.
        MissingExtraError: A package of the extra is not installed.
    """
    import_onnxruntime()
    segmenter.eval()
    backbone, side = segmenter.backbone, _side(segmenter, info)
    graph = export_graph(backbone, side, precision)
    made_with = {name: importlib.metadata.version(name) for name in _MADE_WITH}
    digest = weights_sha256(segmenter)
    record = EncoderRecord(segmenter.spec.name, digest, precision, side, {}, made_with)
    data = f"{len(gate.paths)} files" if gate.paths else "phantoms"
    found = agreement.compare(
        segmenter,
        _exported(graph, backbone, record),
        gate.examples(segmenter, info),
        data=data,
        watch=watch,
    )
    _check(found, precision, gate)
    record = replace(record, agreement=found.to_dict())
    write_encoder(out, graph, record)
    return record


def use_encoder(segmenter: Segmenter, info: ModelInfo | None, encoder: str | Path) -> EncoderRecord:
    """Let a model encode with an exported encoder: a file, or "int8" or "float32".

    The latter are made at first use and kept in $SEGKIT_HOME/encoders, under a name that holds the
    hash of the weights. The float encoder is released.

    Raises:
        CheckpointError: The file is damaged, or was made from other weights or for another size.
        InputError: As `export_encoder`.
    """
    path = Path(encoder)
    if str(encoder) in PRECISIONS:
        path = _kept(segmenter, info, next(one for one in PRECISIONS if one == str(encoder)))
    graph, record = read_encoder(path)
    _check_fits(path, record, segmenter, info)
    tell_speed(record.precision)
    if Agreement.from_dict(record.agreement).mean_iou < LEAST_IOU:
        _LOG.warning("%s was accepted although its masks differ from the model's own", path)
    segmenter.backbone = _exported(graph, segmenter.backbone, record)
    _LOG.info("encoder %s: %s", path, describe(record))
    return record


def weights_sha256(segmenter: Segmenter) -> str:
    """Hash of encoder and adapter as they stand."""
    return content_sha256(segmenter.backbone.state_dict())


def describe(record: EncoderRecord) -> str:
    """Say in one line what an exported encoder is and how well it agrees."""
    return (
        f"{record.backbone} in {record.precision} for {record.side} x {record.side} pixels; with "
        f"the float encoder {Agreement.from_dict(record.agreement)}"
    )


def _exported(graph: bytes, like: Backbone, record: EncoderRecord) -> OnnxBackbone:
    # it has no tiny member: it is always made from another backbone
    return OnnxBackbone(graph, like, record)  # type: ignore[abstract]


def _kept(segmenter: Segmenter, info: ModelInfo | None, precision: Precision) -> Path:
    """The file of the cache, made if it is not there or cannot be read any more."""
    digest, side = weights_sha256(segmenter), _side(segmenter, info)
    name = f"{segmenter.spec.name}-{side}-{digest[:16]}.{precision}.onnx"
    path = home_folder() / "encoders" / name
    if path.exists():
        try:
            _check_fits(path, read_encoder(path)[1], segmenter, info)
            return path
        except CheckpointError as error:
            _LOG.warning("%s; it is made again", error)
    path.parent.mkdir(parents=True, exist_ok=True)
    _LOG.info("exporting the encoder in %s, once for these weights: %s", precision, path)
    export_encoder(segmenter, info, path, precision)
    return path


def _side(segmenter: Segmenter, info: ModelInfo | None) -> int:
    if segmenter.spec.dimensions != 2:
        raise InputError(
            "encoders of models that see slices can be exported, this one sees blocks",
            fix="use the model as it is",
            code="not_exportable",
        )
    if info is None:
        return segmenter.spec.image_size
    zoom, side = info.input.zoom, info.input.size
    if zoom is not None and zoom.size != side:
        raise InputError(
            f"an exported encoder has one size, this model reads slices of {side} and windows of "
            f"{zoom.size} pixels",
            fix="use the model as it is, or train it with data.zoom.size equal to data.size",
            code="not_exportable",
        )
    return side


def _check(found: Agreement, precision: Precision, gate: Gate) -> None:
    if found.mean_iou < gate.least_iou:
        raise InputError(
            f"the {precision} encoder does not agree with the float one: {found}; required is a "
            f"mean of {gate.least_iou}",
            fix="use float32; or compare on pictures like yours with segkit convert --to "
            f"{precision} MODEL -o FILE --data PATH, or accept less with its --min-iou",
            code="encoder_differs",
        )


def _check_fits(
    path: Path, record: EncoderRecord, segmenter: Segmenter, info: ModelInfo | None
) -> None:
    found, side = weights_sha256(segmenter), _side(segmenter, info)
    again = "export it again from this model: segkit convert --to int8 MODEL -o FILE"
    Agreement.from_dict(record.agreement)
    if record.weights_sha256 != found:
        raise CheckpointError(
            f"was exported from weights with sha256 {record.weights_sha256} "
            f"({record.backbone}), this model has {found} ({segmenter.spec.name})",
            fix=again,
            path=path,
            code="other_backbone",
        )
    if record.side != side:
        raise CheckpointError(
            f"was exported for images of {record.side} pixels, this model reads {side}",
            fix=again,
            path=path,
            code="other_size",
        )
