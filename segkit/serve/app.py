"""The web application: all faces of one engine, behind one guard."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.resources import files

from fastapi import FastAPI, Response

from segkit.serve import api, monailabel, nninteractive
from segkit.serve.engine import Engine
from segkit.serve.guard import App, Guard

PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}


def create_app(engine: Engine) -> App:
    """ASGI application for an engine; closing it closes the engine."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watch = asyncio.create_task(engine.watch())
        yield
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch
        engine.close()

    # no schema pages: they would load scripts from elsewhere
    app = FastAPI(lifespan=lifespan, openapi_url=None, redirect_slashes=False)
    app.include_router(nninteractive.router(engine))
    app.include_router(monailabel.router(engine))
    app.include_router(api.router(engine))
    _add_page(app)
    return Guard(app, engine.settings)


def _add_page(app: FastAPI) -> None:
    folder = files("segkit.serve") / "page"
    for path, (name, kind) in PAGE.items():
        data = (folder / name).read_bytes()

        def show(data: bytes = data, kind: str = kind) -> Response:
            return Response(data, media_type=kind)

        app.add_api_route(path, show, include_in_schema=False)
