"""The MONAI Label REST subset that its Slicer plugin and client use.

Identities are `client_id` of the parameters: images of one client cannot be reached by another.
Image ids are opaque text of the client and never become a path. Labels get ids of their own that
cannot be guessed, because the protocol fetches them without saying who asks.
"""

import hashlib
import json
import secrets
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import Field
from starlette.datastructures import FormData, UploadFile

from segkit.data.volume import Volume
from segkit.serve import jobs
from segkit.serve.annotation import Annotation, Encoded, label_map
from segkit.serve.engine import Engine, Lease
from segkit.serve.faults import Refusal, bad, unknown
from segkit.serve.images import SUFFIXES, FileAbout, Image, from_file, from_files
from segkit.serve.learning import Plan
from segkit.serve.messages import Box, Drawing, Number, Points, Tolerant, check, strict_json
from segkit.serve.monailabel_info import file_answer, info, multipart, session_info, train_info
from segkit.serve.pictures import FORMATS, mask_file
from segkit.serve.residents import Resident
from segkit.serve.settings import Settings
from segkit.serve.wire import SafeRoute, make_image

Place = tuple[Number, Number, Number]
Answer = dict[str, Any]
IMAGE_SUFFIXES = tuple(one for one in SUFFIXES if one not in (".png", ".jpg", ".jpeg"))


class Params(Tolerant):
    """What the plugin sends with an inference; indices are (i, j, k)."""

    client_id: str | None = None
    foreground: Annotated[tuple[Place, ...], Field(max_length=4096)] = ()
    background: Annotated[tuple[Place, ...], Field(max_length=4096)] = ()
    roi: Annotated[tuple[Number, ...], Field(max_length=6)] = ()
    label: str | None = None
    result_extension: str = ".nrrd"


def router(engine: Engine) -> APIRouter:
    """Endpoints of the protocol."""
    routes = APIRouter(route_class=SafeRoute)
    _add_auth(routes, engine.settings)
    _add_sessions(routes, engine)
    _add_datastore(routes, engine)
    _add_labels(routes, engine)
    _add_samples(routes, engine)
    _add_infer(routes, engine)
    _add_train(routes, engine)
    return routes


def _add_auth(routes: APIRouter, settings: Settings) -> None:
    @routes.get("/auth/")
    async def enabled() -> Answer:
        return {"enabled": bool(settings.token)}

    @routes.post("/auth/token")
    async def log_in(request: Request) -> Answer:
        form = await request.form()
        given = str(form.get("password", ""))
        digests = [hashlib.sha256(one.encode()).digest() for one in (given, settings.token)]
        if not settings.token or not secrets.compare_digest(*digests):
            raise Refusal(401, "the password must be the token of the server", "unauthorized")
        return {"access_token": settings.token, "token_type": "bearer"}

    @routes.get("/auth/token/valid")
    async def valid() -> Answer:
        return {}  # the guard lets nobody else through


def _add_sessions(routes: APIRouter, engine: Engine) -> None:
    @routes.get("/info/")
    async def show_info() -> Answer:
        return info(engine)

    @routes.put("/session/")
    async def create(request: Request) -> Answer:
        form = await request.form()
        files = [one for one in form.getlist("files") if isinstance(one, UploadFile)]
        if not files:
            raise bad("no file was sent as 'files'", "no_file")
        # the id is the only key to the session, and nobody can guess it
        token = _session_token(session_id := secrets.token_hex(16))
        lease = engine.claim(token)
        try:
            image = await _read_files(engine, files)
        except BaseException:
            engine.release(token)
            raise
        await engine.compute(lease, lambda: lease.workspace.add_image(image, "image"))
        return {"session_id": session_id, "session_info": session_info(session_id)}

    @routes.get("/session/{session_id}")
    async def show(session_id: str) -> Answer:
        try:
            await engine.enter(_session_token(session_id))
        except Refusal:
            return {}  # the plugin sends the image again; a 404 would stop it with a dialog
        return session_info(session_id)

    @routes.delete("/session/{session_id}")
    async def remove(session_id: str) -> Answer:
        if engine.peek(_session_token(session_id)) is None:
            raise unknown("session")
        engine.release(_session_token(session_id))
        return session_info(session_id)


def _add_datastore(routes: APIRouter, engine: Engine) -> None:
    async def upload(request: Request, image: str = "") -> Answer:
        form = await request.form()
        lease = await _client(engine, _params(form))
        image_id = image or secrets.token_hex(16)
        found = await _read_files(engine, [_file(form, "file")])
        key = _image_key(image_id)

        def keep() -> None:
            lease.workspace.add_image(found, key)
            lease.workspace.remember(**{f"name-{key}": image_id})

        await engine.compute(lease, keep)
        return {"image": image_id}

    routes.put("/datastore/")(upload)
    routes.put("/datastore/image")(upload)

    @routes.get("/datastore/")
    async def listing(output: str = "", client_id: str | None = None) -> Answer:
        lease = await _client(engine, Params(client_id=client_id))
        labels = list(lease.workspace.corrections.values())
        if output != "all":
            tags: dict[str, int] = {}
            for one in labels:
                tags[one.tag] = tags.get(one.tag, 0) + 1
            done = len({one.image_id for one in labels})
            total = len(lease.workspace.images)
            return {"total": total, "completed": done, "label_tags": tags}
        objects: Answer = {}
        for key, image in list(lease.workspace.images.items()):
            name = lease.workspace.notes.get(f"name-{key}", key)
            own = {one.tag: {"ext": ".nrrd", "info": {}} for one in labels if one.image_id == key}
            objects[name] = {"image": {"ext": "", "info": image.describe()}, "labels": own}
        return {"name": "segkit", "description": "", "objects": objects}


def _add_labels(routes: APIRouter, engine: Engine) -> None:
    @routes.get("/datastore/image")
    async def image_file(image: str, client_id: str | None = None) -> Response:
        lease = await _client(engine, Params(client_id=client_id))
        source = lease.workspace.image(_image_key(image)).source
        values = source.array
        if values.dtype.kind not in "iu" or values.min() < 0:
            raise bad("only label-like images can be sent back by this server", "not_supported")
        data = mask_file(values, source, "", ".nrrd", engine.temporary)
        return file_answer(data, ".nrrd")

    @routes.put("/datastore/label")
    async def save_label(request: Request, image: str, tag: str = "final") -> Answer:
        form = await request.form()
        lease = await _client(engine, _params(form))
        key = _image_key(image)
        lease.workspace.image(key)
        found = await _read_files(engine, [_file(form, "label")])
        mask = found.source.array
        label = await engine.compute(
            lease, lambda: lease.workspace.accept(key, mask, tag[:64] or "final")
        )
        return {"image": image, "label": label}

    @routes.get("/datastore/label")
    async def label_file(label: str, tag: str = "final", client_id: str | None = None) -> Response:
        for lease in engine.everybody():
            if label in lease.workspace.corrections:
                return _label_answer(engine, lease, label)
        lease = await _client(engine, Params(client_id=client_id))
        key = _image_key(label)
        for label_id, one in list(lease.workspace.corrections.items()):
            if (one.image_id, one.tag) == (key, tag):
                return _label_answer(engine, lease, label_id)
        raise unknown("label")


def _add_samples(routes: APIRouter, engine: Engine) -> None:
    @routes.post("/activelearning/{strategy}")
    async def next_sample(request: Request, strategy: str) -> Answer:
        if strategy != "first":
            raise unknown("strategy")
        lease = await _client(engine, check(Params, strict_json(await request.body())))
        done = {one.image_id for one in list(lease.workspace.corrections.values())}
        for key in list(lease.workspace.images):
            if key not in done:
                name = lease.workspace.notes.get(f"name-{key}", key)
                return {"id": name, "name": name}
        return {}


def _add_infer(routes: APIRouter, engine: Engine) -> None:
    @routes.post("/infer/{model}")
    async def infer(
        request: Request, model: str, image: str = "", session_id: str = "", output: str = ""
    ) -> Response:
        form = await request.form()
        params = _params(form)
        if params.result_extension not in FORMATS:
            raise bad(f"result_extension must be one of {FORMATS}", "bad_suffix")
        resident = engine.residents.find(model)
        lease, key = await _image_of(engine, form, params, image, session_id)
        drawn = await _drawn(engine, form)
        if resident.segmenter.is_automatic:
            mask, names = await _classes(engine, lease, key, resident)
        else:
            mask = await engine.compute(
                lease, lambda: _one_object(lease, key, resident, params, drawn), request
            )
            names = {params.label or "object": 1}
        source = lease.workspace.image(key).source
        about = {"label_names": names, "model": resident.id}
        if output == "json":
            return Response(json.dumps(about), media_type="application/json")
        suffix = params.result_extension
        data = mask_file(mask.astype(np.uint8), source, "", suffix, engine.temporary)
        if key.startswith("once-"):
            await engine.compute(lease, lambda: lease.workspace.drop_image(key))
        return file_answer(data, suffix) if output == "image" else multipart(about, data, suffix)


def _add_train(routes: APIRouter, engine: Engine) -> None:
    @routes.get("/train/")
    async def status(check_if_running: bool = False) -> Answer:
        found = _last_training(engine)
        if found is None or (check_if_running and found.task.future.done()):
            raise unknown("training")
        return train_info(found)

    @routes.post("/train/{model}")
    async def train(request: Request, model: str) -> Answer:
        params = check(Params, strict_json(await request.body() or b"{}"))
        running = _last_training(engine)
        if running is not None and not running.task.future.done():
            raise Refusal(429, "a training is running already", "busy")
        lease = await _client(engine, params)
        return train_info(jobs.start_learning(engine, lease, model, Plan()))

    @routes.delete("/train/")
    async def stop() -> Answer:
        found = _last_training(engine)
        if found is None:
            raise unknown("training")
        found.task.cancel()
        return train_info(found)


def _one_object(
    lease: Lease, key: str, resident: Resident, params: Params, drawn: np.ndarray | None
) -> np.ndarray:
    """Mask of the points, the box and the drawing of one request."""
    encoded: Encoded = lease.workspace.encoded(key, resident)
    annotation = Annotation(encoded, secrets.token_hex(16))
    if drawn is not None:
        annotation.add(Drawing(kind="mask"), drawn != 0)
    if len(params.roi) == 6 and any(params.roi):
        x0, x1, y0, y1, z0, z1 = params.roi
        annotation.add(Box(box=((z0, z1), (y0, y1), (x0, x1))))
    clicks = [*params.foreground, *params.background]
    if clicks:
        labels: list[Literal[0, 1]] = [1 for _ in params.foreground]
        labels += [0 for _ in params.background]
        points = tuple(tuple(float(round(value)) for value in place[::-1]) for place in clicks)
        annotation.add(Points(points=points, labels=tuple(labels)))
    try:
        annotation.render()
        return annotation.mask()
    finally:
        annotation.wipe()


async def _classes(
    engine: Engine, lease: Lease, key: str, resident: Resident
) -> tuple[np.ndarray, dict[str, int]]:
    """Label map with values 1, 2, ... without gaps, and the names in that order."""
    image = lease.workspace.image(key)
    predictor = resident.predictor(is_picture=image.is_picture)
    found = await engine.compute_long(lease, lambda task: label_map(predictor, image.source, task))
    table = np.zeros(256, np.uint8)
    names: dict[str, int] = {}
    for number, (value, name) in enumerate(sorted(predictor.labels.items()), start=1):
        table[value], names[name] = number, number
    if not names:
        return found, {f"class {value}": value for value in range(1, int(found.max()) + 1)}
    return table[found], names


async def _image_of(
    engine: Engine, form: FormData, params: Params, image: str, session_id: str
) -> tuple[Lease, str]:
    """Who asks, and the key of the image that is meant."""
    if session_id:
        lease = await engine.enter(_session_token(session_id))
        return lease, "image"
    lease = await _client(engine, params)
    if isinstance(form.get("file"), UploadFile):
        found = await _read_files(engine, [_file(form, "file")])
        key = f"once-{secrets.token_hex(8)}"
        await engine.compute(lease, lambda: lease.workspace.add_image(found, key))
        return lease, key
    key = _image_key(image)
    lease.workspace.image(key)
    return lease, key


async def _drawn(engine: Engine, form: FormData) -> np.ndarray | None:
    if not isinstance(form.get("label"), UploadFile):
        return None
    return (await _read_files(engine, [_file(form, "label")])).source.array


async def _read_files(engine: Engine, files: list[UploadFile]) -> Image:
    limit = engine.settings.limits.array
    parts = [bytearray(await one.read()) for one in files]
    if len(parts) > 1:
        total = bytearray(sum(map(len, parts)))
        return await make_image(
            engine, total, lambda: from_files(parts, engine.temporary, max_bytes=limit),
            is_array=False,
        )  # fmt: skip
    about = FileAbout(suffix=_suffix(files[0].filename or ""))
    body = parts[0]
    image = await make_image(
        engine, body, lambda: from_file(body, about, engine.temporary, max_bytes=limit),
        is_array=False,
    )  # fmt: skip
    if not isinstance(image.source, Volume):
        raise bad("this protocol works on volumes", "not_a_volume")
    return image


def _suffix(name: str) -> str:
    """Known suffix of a client's file name; nothing else of the name is looked at."""
    known = [suffix for suffix in IMAGE_SUFFIXES if name.lower().endswith(suffix)]
    return max(known, key=len, default=".dcm")


def _file(form: FormData, name: str) -> UploadFile:
    found = form.get(name)
    if not isinstance(found, UploadFile):
        raise bad(f"no file was sent as {name!r}", "no_file")
    return found


def _params(form: FormData) -> Params:
    text = form.get("params", "{}")
    if not isinstance(text, str):
        raise bad("'params' must be a JSON text", "bad_params")
    return check(Params, strict_json(text or "{}"))


async def _client(engine: Engine, params: Params) -> Lease:
    digest = hashlib.sha256((params.client_id or "").encode()).hexdigest()
    return await engine.enter_or_claim(f"monai-client-{digest}")


def _session_token(session_id: str) -> str:
    return "monai-session-" + hashlib.sha256(session_id.encode()).hexdigest()


def _image_key(image_id: str) -> str:
    return "monai-" + hashlib.sha256(image_id.encode()).hexdigest()[:32]


def _label_answer(engine: Engine, lease: Lease, label: str) -> Response:
    source = lease.workspace.image(lease.workspace.corrections[label].image_id).source
    mask = lease.workspace.corrected(label).astype(np.uint8)
    return file_answer(mask_file(mask, source, "", ".nrrd", engine.temporary), ".nrrd")


def _last_training(engine: Engine) -> jobs.Job | None:
    found = [
        job for lease in engine.everybody() for job in lease.jobs.values() if job.kind == "learn"
    ]
    running = [job for job in found if not job.task.future.done()]
    return (running or found or [None])[-1]
