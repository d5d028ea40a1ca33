"""Reading requests and writing answers, for every face of the server."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import numpy as np
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from typing_extensions import override

from segkit.client.codec import CONTENT_TYPE, Buffer, encode
from segkit.serve.annotation import Edges, Update
from segkit.serve.clips import Clip
from segkit.serve.engine import Engine, Lease
from segkit.serve.faults import as_refusal, bad
from segkit.serve.guard import error_body
from segkit.serve.images import Image, declared_bytes
from segkit.serve.messages import M, check, strict_json

META, LEASE, PROTOCOL = "X-Meta", "X-Lease-Token", "X-Segkit-Protocol"
Made = TypeVar("Made", Image, Clip)
OCTETS = "application/octet-stream"
MAX_META = 16 * 1024


class SafeRoute(APIRoute):
    """Route whose every error becomes an answer without a path, a name or a traceback."""

    @override
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except ClientDisconnect:
                return Response(status_code=499)
            # the boundary of the process: what is not foreseen must not reach a client or a log
            except Exception as error:
                refusal = as_refusal(error)
                return Response(
                    error_body(refusal), refusal.status, refusal.headers, "application/json"
                )
            finally:
                await request.close()  # uploads lie in temporary files until then

        return answer


async def read_body(request: Request) -> bytearray:
    """Whole body; its size is bounded by the guard."""
    return bytearray().join([chunk async for chunk in request.stream()])


async def read_upload(request: Request) -> memoryview:
    """Whole body, put where it stays as it arrives: an image of 150 MB is not copied once more.

    Room is made for the announced length; pages that nothing arrives for cost no memory.
    """
    length = request.headers.get("content-length", "")
    if not length.isdecimal():
        return memoryview(await read_body(request))
    room, end = np.empty(int(length), dtype=np.uint8).data, 0
    async for chunk in request.stream():
        room[end : end + len(chunk)] = chunk
        end += len(chunk)
    return room[:end]


def read_meta(request: Request, kind: type[M]) -> M:
    """Message in the header X-Meta; without the header, an empty one."""
    text = request.headers.get(META, "{}")
    return check(kind, strict_json(text, MAX_META))


async def lease_of(engine: Engine, request: Request, *, is_action: bool = True) -> Lease:
    """Place of the client that sent a request."""
    return await engine.enter(request.headers.get(LEASE), is_action=is_action)


async def make_image(
    engine: Engine, body: Buffer, make: Callable[[], Made], *, is_array: bool = True
) -> Made:
    """Build an image or a clip off the event loop, once memory for it is there."""
    limit = engine.settings.limits.array
    # of a file, nothing is known yet but that it may not exceed the limit of its reader
    expected = declared_bytes(body) if is_array else min(4 * len(body), limit)
    engine.reserve(min(expected, limit))
    return await asyncio.to_thread(make)


def array_answer(array: np.ndarray, **meta: object) -> Response:
    """Array in the segkit codec, with facts in X-Meta; masks as packed bits."""
    pieces = encode(array, "bits" if array.dtype == np.bool_ else "zlib")
    return Response(b"".join(pieces), headers={META: compact(meta)}, media_type=CONTENT_TYPE)


def update_answer(update: Update, **meta: object) -> Response:
    """What an action changed: the whole content of the box, as packed bits."""
    about = {"has_run": update.has_run, "box": update.box, **meta}
    if update.content is None:
        return Response(b"", headers={META: compact(about)}, media_type=CONTENT_TYPE)
    return array_answer(update.content, **about)


def compact(value: object) -> str:
    """JSON for a header."""
    return json.dumps(value, separators=(",", ":"))


def read_edges(text: str, shape: tuple[int, ...]) -> Edges:
    """Box "low:high,low:high,low:high" of a query, inside an image of the given shape."""
    try:
        edges = tuple(
            (int(low), int(high))
            for low, _, high in (one.partition(":") for one in text.split(","))
        )
    except ValueError as error:
        raise bad("a box is written low:high,low:high,low:high", "bad_box") from error
    if len(edges) != len(shape) or not all(
        0 <= low < high <= size for (low, high), size in zip(edges, shape, strict=True)
    ):
        raise bad(f"the box must lie inside the image of shape {shape}", "bad_box")
    return edges
