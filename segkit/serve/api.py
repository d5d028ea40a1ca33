"""The segkit protocol, version 1, under /segkit/v1: many images and objects, jobs, learning."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import Field

from segkit.metrics.measurements import measure
from segkit.serve import jobs, pictures
from segkit.serve.annotation import Update
from segkit.serve.api_video import add_video_routes
from segkit.serve.engine import Engine, Lease
from segkit.serve.faults import Refusal, bad
from segkit.serve.images import About, FileAbout, decode_any, from_array, from_file
from segkit.serve.learning import Plan
from segkit.serve.messages import Drawing, Message, Name, read, read_prompt
from segkit.serve.residents import describe
from segkit.serve.wire import (
    META,
    PROTOCOL,
    SafeRoute,
    array_answer,
    lease_of,
    make_image,
    read_body,
    read_edges,
    read_meta,
    read_upload,
    update_answer,
)
from segkit.version import VERSION

VERSION_OF_PROTOCOL = 1
PREFIX = "/segkit/v1"
Answer = dict[str, object]


class Open(Message):
    """Body of POST /sessions."""

    image: Name
    model: Name | None = None
    name: Name = "object"


class DrawnMeta(Message):
    """X-Meta of a prompt with an array as its body."""

    prompt: dict[str, object]
    run: bool = True


class Given(Message):
    """JSON body of a prompt."""

    prompt: dict[str, object]
    run: bool = True


class StartJob(Message):
    """Body of POST /jobs."""

    kind: Literal["automatic"] = "automatic"
    image: Name
    model: Name | None = None


class Learn(Message):
    """Body of POST /models/NAME/learn."""

    seconds: Annotated[float, Field(gt=0, le=600)] = 25.0


class Choose(Message):
    """Body of POST /models/NAME/choose."""

    version: Annotated[int, Field(ge=0)]


def router(engine: Engine) -> APIRouter:
    """Endpoints of the protocol."""
    routes = APIRouter(prefix=PREFIX, route_class=SafeRoute)
    _add_lease_routes(routes, engine)
    _add_image_routes(routes, engine)
    _add_session_routes(routes, engine)
    _add_change_routes(routes, engine)
    _add_result_routes(routes, engine)
    _add_outcome_routes(routes, engine)
    _add_job_routes(routes, engine)
    add_video_routes(routes, engine)
    _add_model_routes(routes, engine)
    return routes


def _add_lease_routes(routes: APIRouter, engine: Engine) -> None:
    @routes.get("/health")
    async def health() -> Answer:
        return {"ok": True, "protocol": VERSION_OF_PROTOCOL, "version": VERSION}

    @routes.post("/leases")
    async def claim(request: Request) -> Answer:
        _check_protocol(request)
        rules = engine.settings
        return {
            "lease": engine.claim().token,
            "liveness_s": rules.liveness_s,
            "idle_s": rules.idle_s,
            "is_kept": engine.state is not None,
        }

    @routes.delete("/leases")
    async def release(request: Request) -> Answer:
        engine.release(request.headers.get("x-lease-token"))
        return {}

    @routes.post("/heartbeat")
    async def heartbeat(request: Request) -> Answer:
        lease = await lease_of(engine, request, is_action=False)
        return {"remaining_s": engine.remaining_s(lease)}

    @routes.post("/cancel")
    async def cancel(request: Request) -> Answer:
        lease = await lease_of(engine, request)
        return {"cancelled": engine.cancel(lease)}


def _add_image_routes(routes: APIRouter, engine: Engine) -> None:
    @routes.post("/volumes")
    async def upload(request: Request) -> Answer:
        lease = await lease_of(engine, request)
        limit = engine.settings.limits.array
        if request.headers.get("content-type") == "application/x-segkit-file":
            file = read_meta(request, FileAbout)
            body = await read_upload(request)
            make = partial(from_file, body, file, engine.temporary, max_bytes=limit)
            image = await make_image(engine, body, make, is_array=False)
        else:
            about = read_meta(request, About)
            body = await read_upload(request)
            make = partial(from_array, body, about, max_bytes=limit)
            image = await make_image(engine, body, make)
        image_id = await engine.compute(lease, lambda: lease.workspace.add_image(image))
        return {"id": image_id, **image.describe()}

    @routes.get("/volumes/{image_id}")
    async def show(request: Request, image_id: str) -> Answer:
        lease = await lease_of(engine, request)
        image = lease.workspace.image(image_id)
        window = pictures.default_window(image.source)
        return {"id": image_id, "window": window, **image.describe()}

    @routes.delete("/volumes/{image_id}")
    async def drop(request: Request, image_id: str) -> Answer:
        lease = await lease_of(engine, request)
        lease.workspace.image(image_id)
        await engine.compute(lease, lambda: lease.workspace.drop_image(image_id))
        return {}

    @routes.get("/volumes/{image_id}/voxels")
    async def voxels(request: Request, image_id: str, box: str) -> Response:
        lease = await lease_of(engine, request)
        image = lease.workspace.image(image_id)
        edges = read_edges(box, image.shape)
        return array_answer(image.source.array[tuple(slice(*edge) for edge in edges)])

    @routes.get("/volumes/{image_id}/slice")
    async def image_slice(
        request: Request,
        image_id: str,
        axis: int = 0,
        index: int = 0,
        low: float | None = None,
        high: float | None = None,
    ) -> Response:
        lease = await lease_of(engine, request)
        source = lease.workspace.image(image_id).source
        auto = pictures.default_window(source)
        window = (auto[0] if low is None else low, auto[1] if high is None else high)
        if not all(map(np.isfinite, window)):
            raise bad("low and high must be finite", "bad_window")
        return Response(pictures.image_png(source, axis, index, window), media_type="image/png")


async def _act(
    engine: Engine, request: Request, object_id: str, work: Callable[[Lease], Update]
) -> Response:
    lease = await lease_of(engine, request)
    lease.workspace.item(object_id)
    return update_answer(await engine.compute(lease, lambda: work(lease), request))


def _add_session_routes(routes: APIRouter, engine: Engine) -> None:
    @routes.post("/sessions")
    async def open_session(request: Request) -> Answer:
        lease = await lease_of(engine, request)
        wish = read(Open, await read_body(request))
        lease.workspace.image(wish.image)
        item = await engine.compute(
            lease, lambda: lease.workspace.open(wish.image, wish.model, wish.name)
        )
        return {"id": item.id, "model": item.resident.id, "shape": item.annotation.shape}

    @routes.delete("/sessions/{object_id}")
    async def close(request: Request, object_id: str) -> Answer:
        lease = await lease_of(engine, request)
        lease.workspace.item(object_id)
        await engine.compute(lease, lambda: lease.workspace.close(object_id))
        return {}

    @routes.post("/sessions/{object_id}/prompts")
    async def prompt(request: Request, object_id: str) -> Response:
        body, drawn = await read_body(request), None
        if META in request.headers:
            about: DrawnMeta | Given = read_meta(request, DrawnMeta)
            drawn = decode_any(body, max_bytes=engine.settings.limits.array)
        else:
            about = read(Given, body, engine.settings.limits.json)
        given = read_prompt(about.prompt)
        if isinstance(given, Drawing) != (drawn is not None):
            raise bad(f"a prompt of kind {given.kind} and this body do not fit", "bad_body")

        def add(lease: Lease) -> Update:
            item = lease.workspace.item(object_id)
            lease.workspace.prompt(item, given, drawn)
            return lease.workspace.render(item) if about.run else Update(has_run=False)

        return await _act(engine, request, object_id, add)

    @routes.post("/sessions/{object_id}/run")
    async def run(request: Request, object_id: str) -> Response:
        def render(lease: Lease) -> Update:
            item = lease.workspace.item(object_id)
            lease.workspace.refresh(item)
            return lease.workspace.render(item)

        return await _act(engine, request, object_id, render)


def _add_change_routes(routes: APIRouter, engine: Engine) -> None:
    async def change(request: Request, object_id: str, action: str) -> Response:
        def work(lease: Lease) -> Update:
            item = lease.workspace.item(object_id)
            has_run = lease.workspace.act(item, action)
            update = lease.workspace.render(item)
            return Update(has_run, update.box, update.content)

        return await _act(engine, request, object_id, work)

    @routes.post("/sessions/{object_id}/undo")
    async def undo(request: Request, object_id: str) -> Response:
        return await change(request, object_id, "undo")

    @routes.post("/sessions/{object_id}/redo")
    async def redo(request: Request, object_id: str) -> Response:
        return await change(request, object_id, "redo")

    @routes.post("/sessions/{object_id}/reset")
    async def reset(request: Request, object_id: str) -> Response:
        return await change(request, object_id, "reset")


def _add_result_routes(routes: APIRouter, engine: Engine) -> None:
    @routes.get("/sessions/{object_id}/mask")
    async def mask(request: Request, object_id: str, box: str | None = None) -> Response:
        lease = await lease_of(engine, request)
        item = lease.workspace.item(object_id)
        await engine.compute(lease, lambda: lease.workspace.refresh(item))
        shape = item.annotation.shape
        edges = tuple((0, size) for size in shape) if box is None else read_edges(box, shape)
        content = await engine.compute(lease, lambda: item.annotation.content(edges))
        return array_answer(content, box=edges)

    @routes.get("/sessions/{object_id}/slice")
    async def mask_slice(
        request: Request, object_id: str, axis: int = 0, index: int = 0
    ) -> Response:
        lease = await lease_of(engine, request)
        item = lease.workspace.item(object_id)

        def draw() -> bytes:
            lease.workspace.refresh(item)
            return pictures.mask_png(item.annotation.mask(), axis, index)

        return Response(await engine.compute(lease, draw), media_type="image/png")

    @routes.get("/sessions/{object_id}/scores")
    async def scores_of(request: Request, object_id: str) -> Answer:
        lease = await lease_of(engine, request)
        item = lease.workspace.item(object_id)
        return {"iou": await engine.compute(lease, item.annotation.scores, request)}


def _add_outcome_routes(routes: APIRouter, engine: Engine) -> None:
    @routes.get("/sessions/{object_id}/measurements")
    async def measurements(request: Request, object_id: str) -> Answer:
        lease = await lease_of(engine, request)
        item = lease.workspace.item(object_id)

        def work() -> Answer:
            lease.workspace.refresh(item)
            return measure(lease.workspace.mask_volume(item)).to_dict()

        return await engine.compute(lease, work, request)

    @routes.get("/sessions/{object_id}/file")
    async def file(request: Request, object_id: str, suffix: str = ".nii.gz") -> Response:
        lease = await lease_of(engine, request)
        item = lease.workspace.item(object_id)

        def work() -> bytes:
            lease.workspace.refresh(item)
            shown = item.annotation
            args = (shown.mask(), shown.source, shown.name)
            return pictures.mask_file(*args, suffix, engine.temporary)

        data = await engine.compute(lease, work)
        return _attachment(data, suffix)

    @routes.post("/sessions/{object_id}/accept")
    async def accept(request: Request, object_id: str) -> Answer:
        lease = await lease_of(engine, request)
        item, body = lease.workspace.item(object_id), await read_body(request)
        limit = engine.settings.limits.array

        def work() -> str:
            lease.workspace.refresh(item)
            mask = decode_any(body, max_bytes=limit) if body else item.annotation.mask()
            return lease.workspace.accept(item.image_id, mask, object_id)

        return {"label": await engine.compute(lease, work)}


def _add_job_routes(routes: APIRouter, engine: Engine) -> None:
    @routes.post("/jobs")
    async def start(request: Request) -> Answer:
        lease = await lease_of(engine, request)
        wish = read(StartJob, await read_body(request))
        return jobs.start_automatic(engine, lease, wish.image, wish.model).describe()

    @routes.get("/jobs/{job_id}")
    async def show(request: Request, job_id: str) -> Answer:
        lease = await lease_of(engine, request)
        return jobs.find(lease, job_id).describe()

    @routes.delete("/jobs/{job_id}")
    async def cancel(request: Request, job_id: str) -> Answer:
        lease = await lease_of(engine, request)
        job = jobs.find(lease, job_id)
        job.task.cancel()
        return job.describe()

    @routes.get("/jobs/{job_id}/labels")
    async def labels(request: Request, job_id: str) -> Response:
        lease = await lease_of(engine, request)
        return array_answer(jobs.find(lease, job_id).labels())


def _add_model_routes(routes: APIRouter, engine: Engine) -> None:
    @routes.get("/models")
    async def models() -> Answer:
        return {"models": describe(engine.residents), "can_learn": engine.settings.learning}

    @routes.post("/models/{name}/learn")
    async def learn(request: Request, name: str) -> Answer:
        lease = await lease_of(engine, request)
        wish = read(Learn, await read_body(request))
        return jobs.start_learning(engine, lease, name, Plan(seconds=wish.seconds)).describe()

    @routes.post("/models/{name}/choose")
    async def choose(request: Request, name: str) -> Answer:
        await lease_of(engine, request)
        if not engine.settings.learning:
            raise Refusal(403, "versions are fixed on this server (--no-learning)", "not_allowed")
        return {
            "model": engine.residents.choose(
                name, read(Choose, await read_body(request)).version
            ).id
        }


def _attachment(data: bytes, suffix: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="mask{suffix}"'}
    return Response(data, headers=headers, media_type="application/octet-stream")


def _check_protocol(request: Request) -> None:
    theirs = request.headers.get(PROTOCOL, str(VERSION_OF_PROTOCOL))
    if theirs != str(VERSION_OF_PROTOCOL):
        shown = theirs if theirs.isdecimal() and len(theirs) < 6 else "unknown"
        raise Refusal(
            400,
            f"the client speaks protocol {shown}, this server ({VERSION}) protocol "
            f"{VERSION_OF_PROTOCOL}; install matching versions",
            "protocol_mismatch",
        )
