"""What a MONAI Label client is told, in the words of that protocol."""

import json
import secrets
import time
from typing import Any

from fastapi import Response

from segkit.serve.engine import Engine
from segkit.serve.jobs import Job
from segkit.serve.residents import Resident
from segkit.version import VERSION

DEEPGROW, SEGMENTATION = "deepgrow", "segmentation"


def info(engine: Engine) -> dict[str, Any]:
    """Answer of GET /info/; interactive models stand on the tab for points."""
    residents = [engine.residents.find(name) for name in engine.residents.names]
    labels = [name for one in residents for name in one.volumes.labels.values()]
    trainers = {one.name for one in residents if _can_learn(engine, one)}
    return {
        "name": "segkit",
        "description": "segkit serve: SAM-type models with adapters",
        "version": VERSION,
        "labels": list(dict.fromkeys(labels)) or ["object"],
        "models": {one.name: _model(one) for one in residents},
        "trainers": {name: {"description": "Learn from saved labels"} for name in trainers},
        "strategies": {"first": {"description": "First image without a label"}},
        "scoring": {},
        "train_stats": {},
        "datastore": {"total": 0, "completed": 0, "label_tags": {}},
    }


def _model(resident: Resident) -> dict[str, Any]:
    is_automatic = resident.segmenter.is_automatic
    names = [name for _, name in sorted(resident.volumes.labels.items())]
    return {
        "type": SEGMENTATION if is_automatic else DEEPGROW,
        "labels": {name: number for number, name in enumerate(names, start=1)},
        "dimension": 3,
        "description": f"segkit model {resident.id}",
        "config": {},
    }


def _can_learn(engine: Engine, resident: Resident) -> bool:
    return engine.settings.learning and not resident.segmenter.is_automatic


def session_info(session_id: str) -> dict[str, Any]:
    """What the plugin wants to know of a session; no path."""
    now = int(time.time())
    return {
        "name": session_id, "path": "", "image": "", "meta": {},
        "create_ts": now, "last_access_ts": now, "expiry": 3600,
    }  # fmt: skip


def file_answer(data: bytes, suffix: str) -> Response:
    """File with a name that says nothing."""
    headers = {
        "Content-Disposition": f'attachment; filename="segkit-{secrets.token_hex(8)}{suffix}"'
    }
    return Response(data, headers=headers, media_type="application/octet-stream")


def multipart(about: dict[str, Any], data: bytes, suffix: str) -> Response:
    """Facts and a file, as the client takes them apart: only the file has a file name."""
    edge = secrets.token_hex(16)
    name = f"segkit-{secrets.token_hex(8)}{suffix}"
    body = (
        f'--{edge}\r\nContent-Disposition: form-data; name="params"\r\n'
        f"Content-Type: application/json\r\n\r\n{json.dumps(about)}\r\n"
        f'--{edge}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()
    end = f"\r\n--{edge}--\r\n".encode()
    return Response(body + data + end, media_type=f"multipart/form-data; boundary={edge}")


def train_info(job: Job) -> dict[str, Any]:
    """State of a training in the words of the protocol."""
    names = {"waiting": "RUNNING", "running": "RUNNING", "done": "DONE", "cancelled": "CANCELED"}
    about = job.describe()
    return {
        "id": job.id, "status": names.get(job.status, "ERROR"), "start_ts": "", "end_ts": "",
        "details": [f"{about['done']} of {about['total']} steps"],
        "result": about.get("outcome", {}),
    }  # fmt: skip
