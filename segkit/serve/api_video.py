"""Recordings in the segkit protocol: /clips holds them, /tracks starts jobs on them."""

from functools import partial

from fastapi import APIRouter, Request

from segkit.serve.clips import ClipAbout, from_frames, from_recording
from segkit.serve.engine import Engine
from segkit.serve.images import FileAbout
from segkit.serve.messages import read
from segkit.serve.tracking import Track, start_tracking
from segkit.serve.wire import lease_of, make_image, read_body, read_meta, read_upload

Answer = dict[str, object]


def add_video_routes(routes: APIRouter, engine: Engine) -> None:
    """Endpoints for recordings; the jobs are those of /jobs."""

    @routes.post("/clips")
    async def upload(request: Request) -> Answer:
        lease = await lease_of(engine, request)
        if request.headers.get("content-type") == "application/x-segkit-file":
            file = read_meta(request, FileAbout)
            body = await read_upload(request)
            make = partial(from_recording, body, file, engine.temporary)
            clip = await make_image(engine, body, make, is_array=False)
        else:
            about = read_meta(request, ClipAbout)
            body = await read_upload(request)
            make = partial(from_frames, body, about, max_bytes=engine.settings.limits.array)
            clip = await make_image(engine, body, make)
        clip_id = await engine.compute(lease, lambda: lease.workspace.add_clip(clip))
        return {"id": clip_id, **clip.describe()}

    @routes.delete("/clips/{clip_id}")
    async def drop(request: Request, clip_id: str) -> Answer:
        lease = await lease_of(engine, request)
        lease.workspace.clip(clip_id)
        await engine.compute(lease, lambda: lease.workspace.drop_clip(clip_id))
        return {}

    @routes.post("/tracks")
    async def track(request: Request) -> Answer:
        lease = await lease_of(engine, request)
        wish = read(Track, await read_body(request))
        return start_tracking(engine, lease, wish).describe()
