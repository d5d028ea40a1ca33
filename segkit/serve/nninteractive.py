"""The nnInteractive v2 protocol: existing plugins work by a change of address.

Coordinates are in the array order of the image that was sent; boxes are half-open. One client has
one image and one object, both named by constants.
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import Field

from segkit.serve import nnia
from segkit.serve.annotation import Update
from segkit.serve.engine import Engine, Lease
from segkit.serve.faults import Refusal, bad
from segkit.serve.images import About, decode_any, from_array
from segkit.serve.messages import Box, Drawing, Edges, Number, Points, Prompt, Tolerant, read
from segkit.serve.wire import (
    META,
    OCTETS,
    SafeRoute,
    compact,
    lease_of,
    make_image,
    read_body,
    read_meta,
    read_upload,
)
from segkit.serve.workspace import Object
from segkit.version import VERSION

IMAGE, OBJECT = "nn-image", "nn-object"
BUFFER_TYPES = (
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64",
)  # fmt: skip
KINDS = ("points", "bbox2d", "bbox3d", "scribble", "lasso")


class ImageMeta(Tolerant):
    """X-Meta of /set_image."""

    image_properties: dict[str, Any] = Field(default_factory=dict)


class Buffer(Tolerant):
    """Body of /set_target_buffer."""

    shape: tuple[
        Annotated[int, Field(gt=0, lt=2**31, strict=True)],
        Annotated[int, Field(gt=0, lt=2**31, strict=True)],
        Annotated[int, Field(gt=0, lt=2**31, strict=True)],
    ]
    dtype: str = "uint8"


class Autozoom(Tolerant):
    """Body of /set_do_autozoom."""

    do_autozoom: bool


class Interaction(Tolerant):
    """What every interaction has."""

    include_interaction: bool = True
    run_prediction: bool = True


class PointInteraction(Interaction):
    """Body of /add_point_interaction."""

    coordinates: tuple[Number, Number, Number]


class BoxInteraction(Interaction):
    """Body of /add_bbox_interaction."""

    bbox_coords: Edges


class MaskInteraction(Interaction):
    """X-Meta of scribbles and lassos."""

    interaction_bbox: Edges | None = None


class InitialSegmentation(Tolerant):
    """X-Meta of /add_initial_seg_interaction."""

    run_prediction: bool = False


def router(engine: Engine) -> APIRouter:
    """Endpoints of the protocol."""
    routes = APIRouter(route_class=SafeRoute)
    _add_lease_routes(routes, engine)
    _add_image_routes(routes, engine)
    _add_interactions(routes, engine)
    _add_drawings(routes, engine)
    return routes


def _add_lease_routes(routes: APIRouter, engine: Engine) -> None:
    @routes.get("/healthz")
    async def healthz() -> dict[str, bool]:
        return {"ok": True}

    @routes.get("/capabilities")
    async def capabilities() -> dict[str, object]:
        return _capabilities(engine)

    @routes.post("/claim")
    async def claim() -> dict[str, object]:
        rules = engine.settings
        return {
            "lease_token": engine.claim().token,
            "idle_timeout_seconds": rules.idle_s,
            "liveness_timeout_seconds": rules.liveness_s,
            "max_sessions": rules.max_leases,
        }

    @routes.post("/release")
    async def release(request: Request) -> dict[str, bool]:
        engine.release(request.headers.get("x-lease-token"))
        return {"released": True}

    @routes.post("/heartbeat")
    async def heartbeat(request: Request) -> dict[str, float]:
        lease = await lease_of(engine, request, is_action=False)
        return {"remaining_seconds": engine.remaining_s(lease)}

    @routes.get("/lease_status")
    async def lease_status(request: Request) -> dict[str, float]:
        lease = engine.peek(request.headers.get("x-lease-token"))
        lease = lease or await lease_of(engine, request, is_action=False)
        return {
            "remaining_seconds": engine.remaining_s(lease),
            "idle_timeout_seconds": engine.settings.idle_s,
        }


def _add_image_routes(routes: APIRouter, engine: Engine) -> None:
    @routes.post("/set_image")
    async def set_image(request: Request) -> dict[str, list[int]]:
        lease = await lease_of(engine, request)
        meta = read_meta(request, ImageMeta)
        body = await read_upload(request)
        about = _about(meta.image_properties)
        limit = engine.settings.limits.array
        make = partial(from_array, body, about, max_bytes=limit)
        image = await make_image(engine, body, make)
        space = lease.workspace

        def keep() -> None:
            space.add_image(image, IMAGE)
            space.remember(buffer=None, can_undo=False)
            space.open(IMAGE, None, "object", OBJECT)

        await engine.compute(lease, keep)
        return {"original_image_shape": [1, *image.shape]}

    @routes.post("/set_target_buffer")
    async def set_target_buffer(request: Request) -> dict[str, object]:
        lease = await lease_of(engine, request)
        buffer = read(Buffer, await read_body(request))
        if buffer.dtype not in BUFFER_TYPES:
            raise bad(f"dtype of the buffer must be one of {BUFFER_TYPES}", "bad_dtype")
        if (total := int(np.prod(buffer.shape, dtype=object))) > engine.settings.limits.array:
            raise Refusal(413, f"a buffer of {total} voxels is too large", "too_large")
        space = lease.workspace

        def keep() -> None:
            space.remember(buffer=[list(buffer.shape), buffer.dtype])
            if OBJECT in space.objects:
                space.item(OBJECT).is_stale = False
                space.item(OBJECT).annotation.send_all()

        await engine.compute(lease, keep)
        return {}

    @routes.post("/set_do_autozoom")
    async def set_do_autozoom(request: Request) -> dict[str, object]:
        lease = await lease_of(engine, request)
        lease.workspace.remember(autozoom=read(Autozoom, await read_body(request)).do_autozoom)
        return {}

    @routes.post("/reset_interactions")
    async def reset_interactions(request: Request) -> dict[str, object]:
        lease = await lease_of(engine, request)

        def reset() -> None:
            item = _object(lease)
            item.is_stale = False
            lease.workspace.act(item, "reset")
            lease.workspace.render(item)
            lease.workspace.remember(can_undo=False, has_pending=False)

        await engine.compute(lease, reset)
        return {}


async def _act(engine: Engine, request: Request, act: Callable[[Lease], Update]) -> Response:
    lease = await lease_of(engine, request)
    update = await engine.compute(lease, lambda: act(lease), request)
    return _answer(lease, update)


def _adding(prompt: Prompt, drawn: np.ndarray | None, *, run: bool) -> Callable[[Lease], Update]:
    return lambda lease: _add(lease, prompt, drawn, run=run)


def _add_interactions(routes: APIRouter, engine: Engine) -> None:
    @routes.post("/undo")
    async def undo(request: Request) -> Response:
        await read_body(request)
        return await _act(engine, request, _undo)

    @routes.post("/predict")
    async def predict(request: Request) -> Response:
        await read_body(request)
        return await _act(engine, request, _predict)

    @routes.post("/add_point_interaction")
    async def add_point(request: Request) -> Response:
        message = read(PointInteraction, await read_body(request))
        voxel = tuple(float(round(value)) for value in message.coordinates)
        point = Points(points=(voxel,), labels=(_label(message),))
        return await _act(engine, request, _adding(point, None, run=message.run_prediction))

    @routes.post("/add_bbox_interaction")
    async def add_box(request: Request) -> Response:
        message = read(BoxInteraction, await read_body(request))
        if any(round(high) <= round(low) for low, high in message.bbox_coords):
            raise bad("the box has no extent; it is half-open", "prompt_empty")
        edges = tuple((float(round(a)), float(round(b))) for a, b in message.bbox_coords)
        box = Box(box=edges, label=_label(message))
        return await _act(engine, request, _adding(box, None, run=message.run_prediction))


def _add_drawings(routes: APIRouter, engine: Engine) -> None:
    async def add_drawn(request: Request, kind: Literal["scribble", "lasso"]) -> Response:
        meta = read_meta(request, MaskInteraction)
        drawn = await _drawn(request, engine)
        prompt = Drawing(kind=kind, box=meta.interaction_bbox, label=_label(meta))
        return await _act(engine, request, _adding(prompt, drawn, run=meta.run_prediction))

    @routes.post("/add_scribble_interaction")
    async def add_scribble(request: Request) -> Response:
        return await add_drawn(request, "scribble")

    @routes.post("/add_lasso_interaction")
    async def add_lasso(request: Request) -> Response:
        return await add_drawn(request, "lasso")

    @routes.post("/add_initial_seg_interaction")
    async def add_initial_segmentation(request: Request) -> Response:
        meta = read_meta(request, InitialSegmentation)
        drawn = await _drawn(request, engine)

        def start(lease: Lease) -> Update:
            _add(lease, Drawing(kind="mask"), drawn, run=True)
            # the client has put the mask into its buffer already
            return Update(has_run=meta.run_prediction)

        return await _act(engine, request, start)


def _add(lease: Lease, prompt: Prompt, drawn: np.ndarray | None, *, run: bool) -> Update:
    item = _object(lease)
    lease.workspace.prompt(item, prompt, drawn)
    lease.workspace.remember(can_undo=True, has_pending=not run)
    return lease.workspace.render(item) if run else Update(has_run=False)


def _predict(lease: Lease) -> Update:
    item = _object(lease)
    lease.workspace.refresh(item)
    if not lease.workspace.notes.get("has_pending"):
        return Update(has_run=False)
    lease.workspace.remember(has_pending=False)
    return lease.workspace.render(item)


def _undo(lease: Lease) -> Update:
    """One level, as the protocol has it: a second undo in a row finds nothing."""
    item, space = _object(lease), lease.workspace
    if not space.notes.get("can_undo") or not space.act(item, "undo"):
        return Update(has_run=False)
    space.remember(can_undo=False, has_pending=False)
    return lease.workspace.render(item)


def _label(message: Interaction) -> Literal[0, 1]:
    return 1 if message.include_interaction else 0


def _object(lease: Lease) -> Object:
    if OBJECT not in lease.workspace.objects:
        raise bad("no image is set; call /set_image first", "no_image")
    return lease.workspace.item(OBJECT)


async def _drawn(request: Request, engine: Engine) -> np.ndarray:
    body = await read_body(request)
    return decode_any(body, max_bytes=engine.settings.limits.array)


def _about(properties: dict[str, Any]) -> About:
    spacing = properties.get("spacing")
    if spacing is None:
        return About(is_led=True)
    if not isinstance(spacing, list) or len(spacing) != 3:
        raise bad("image_properties.spacing must be three numbers", "bad_spacing")
    try:
        return About(is_led=True, spacing_mm=tuple(float(step) for step in spacing))
    except (TypeError, ValueError) as error:
        raise bad("image_properties.spacing must be three numbers > 0", "bad_spacing") from error


def _answer(lease: Lease, update: Update) -> Response:
    meta: dict[str, object] = {"ran_prediction": update.has_run, "bbox": None}
    buffer = lease.workspace.notes.get("buffer")
    body = b""
    if update.has_run and update.box is not None and update.content is not None and buffer:
        shape, dtype = buffer
        ends = [min(high, size) for (_, high), size in zip(update.box, shape, strict=True)]
        box = [[low, end] for (low, _), end in zip(update.box, ends, strict=True)]
        if all(low < high for low, high in box):
            cut = update.content[tuple(slice(0, high - low) for low, high in box)]
            meta |= {"bbox": box, "dtype": dtype, "shape": list(cut.shape)}
            body = nnia.pack(np.ascontiguousarray(cut).astype(dtype))
    return Response(body, headers={META: compact(meta)}, media_type=OCTETS)


def _capabilities(engine: Engine) -> dict[str, object]:
    return {
        "supported_interactions": dict.fromkeys(KINDS, True),
        "channel_mapping": {
            "prev_seg": 0, "bbox2d": [1, 2], "bbox3d": [1, 2], "points": [3, 4],
            "scribble": [5, 6], "lasso": [1, 2],
        },
        "num_interaction_channels": 7,
        "supports_initial_label": True,
        "supports_zero_shot_label_refinement": True,
        "preferred_scribble_thickness": [1, 2, 2],
        "interaction_decay": None,
        "patch_size": None,
        "do_autozoom": False,
        "inference_session_version": f"segkit {VERSION}",
        "license": _licence(engine),
        "supports_undo": True,
    }  # fmt: skip


def _licence(engine: Engine) -> str | None:
    info = engine.residents.find(engine.residents.interactive).volumes.info
    return info.licence or None if info is not None else None
