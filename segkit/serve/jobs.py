"""Work that takes longer than a click: whole volumes, and learning; with progress."""

import secrets
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from segkit.serve.annotation import label_map
from segkit.serve.engine import Engine, Lease
from segkit.serve.faults import Cancelled, Refusal, as_refusal, bad, unknown
from segkit.serve.learning import Plan, learn
from segkit.serve.residents import Resident, interactive
from segkit.serve.worker import Task

MAX_JOBS = 16


@dataclass(slots=True, eq=False)
class Job:
    """One piece of long work of one client."""

    kind: str
    task: Task[Any]
    about: dict[str, object] = field(default_factory=dict)
    id: str = field(default_factory=lambda: secrets.token_hex(16))

    @property
    def status(self) -> str:
        """One of waiting, running, done, failed, cancelled."""
        future = self.task.future
        if not future.done():
            return "running" if future.running() else "waiting"
        if (error := self._error()) is None:
            return "done"
        return "cancelled" if isinstance(error, Cancelled) else "failed"

    def describe(self) -> dict[str, object]:
        """What a client may know; `outcome` of finished learning."""
        found: dict[str, object] = {"id": self.id, "kind": self.kind, "status": self.status}
        found |= {"done": self.task.done, "total": self.task.total, **self.about}
        if self.status == "failed" and (error := self._error()) is not None:
            refusal = as_refusal(error)
            found |= {"detail": refusal.detail, "code": refusal.code}
        if self.status == "done" and isinstance(result := self.task.future.result(), dict):
            found["outcome"] = result
        return found

    def labels(self) -> np.ndarray:
        """Label map of a finished automatic job.

        Raises:
            Refusal: 409; it is not finished, or gives none.
        """
        result = self.task.future.result() if self.status == "done" else None
        if not isinstance(result, np.ndarray):
            raise Refusal(409, f"the job has no label map, it is {self.status}", "not_ready")
        return result

    def _error(self) -> BaseException | None:
        try:
            return self.task.future.exception()
        except CancelledError:
            return Cancelled()


def start(
    engine: Engine,
    lease: Lease,
    kind: str,
    work: Callable[[Task[Any]], object],
    about: dict[str, object],
) -> Job:
    """Put a job in line behind all clicks."""
    for old in [one for one in lease.jobs.values() if one.task.future.done()][: -MAX_JOBS // 2]:
        del lease.jobs[old.id]
    if len(lease.jobs) >= MAX_JOBS:
        raise bad(f"at most {MAX_JOBS} jobs at a time; cancel one", "too_many")
    job = Job(kind, engine.submit(lease, work, is_urgent=False), about)
    lease.jobs[job.id] = job
    return job


def find(lease: Lease, job_id: str) -> Job:
    """Job of a client by id.

    Raises:
        Refusal: 404; it has none of that id.
    """
    if job_id not in lease.jobs:
        raise unknown("job")
    job: Job = lease.jobs[job_id]
    return job


def start_automatic(engine: Engine, lease: Lease, image_id: str, model: str | None) -> Job:
    """Segment all classes of a volume.

    Raises:
        Refusal: 400; the model needs prompts.
    """
    image = lease.workspace.image(image_id)
    resident = engine.residents.find(model) if model else _first_automatic(engine)
    if not resident.segmenter.is_automatic:
        raise bad(f"model {resident.name} needs prompts; open a session", "not_automatic")
    predictor = resident.predictor(is_picture=image.is_picture)
    names = {str(value): name for value, name in predictor.labels.items()}
    return start(
        engine,
        lease,
        "automatic",
        lambda task: label_map(predictor, image.source, task),
        {"image": image_id, "model": resident.id, "labels": names},
    )


def start_learning(engine: Engine, lease: Lease, model: str | None, plan: Plan) -> Job:
    """Learn a new version of a model from everything this client accepted.

    Raises:
        Refusal: 400; nothing was accepted, or the server does not learn.
    """
    if not engine.settings.learning:
        raise Refusal(403, "this server does not learn (--no-learning)", "not_allowed")
    space = lease.workspace
    base = interactive(engine.residents.find(model or engine.residents.interactive))
    if not space.corrections:
        raise bad("no segmentation was accepted yet; accept one first", "nothing_to_learn")

    def work(task: Task[Any]) -> dict[str, object]:
        corrected = [
            (space.encoded(one.image_id, base), space.corrected(key))
            for key, one in list(space.corrections.items())
        ]
        segmenter, outcome = learn(base.segmenter, corrected, task, plan)
        new = engine.residents.grow(base, segmenter)
        if not outcome.has_helped:
            engine.residents.choose(base.name, base.version)
        return {"model": base.name, "base": base.id, "version": new.version, **outcome.to_dict()}

    return start(engine, lease, "learn", work, {"model": base.id})


def _first_automatic(engine: Engine) -> Resident:
    for name in engine.residents.names:
        if (found := engine.residents.find(name)).segmenter.is_automatic:
            return found
    raise unknown("automatic model")
