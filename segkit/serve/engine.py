"""The engine behind every protocol: who is here, what they have, and one thread that computes."""

import asyncio
import logging
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from segkit.serve.faults import Cancelled, busy, gone
from segkit.serve.residents import Residents
from segkit.serve.settings import Settings
from segkit.serve.state import State, private_folder
from segkit.serve.worker import Task, Worker
from segkit.serve.workspace import Workspace

log = logging.getLogger(__name__)
T = TypeVar("T")
REAP_EVERY_S = 15.0
TOKEN_BYTES = 16


class Connection(Protocol):
    """What the engine needs of a request: to notice that its client has hung up."""

    @property
    def receive(self) -> Callable[[], Any]:
        """Wait for the next message of the connection."""


@dataclass(slots=True, eq=False)
class Lease:
    """A client's place. `seen` is its last sign of life, `used` its last action, in seconds."""

    token: str
    workspace: Workspace
    seen: float
    used: float
    tasks: set[Task[Any]] = field(default_factory=set)
    jobs: dict[str, Any] = field(default_factory=dict)


class Engine:
    """Leases, parking and computing for one device.

    `clock` gives seconds and is replaced in tests.
    """

    def __init__(
        self,
        residents: Residents,
        settings: Settings | None = None,
        *,
        state: State | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.residents, self.settings = residents, settings or Settings()
        self.state, self.clock = state, clock
        self.temporary = private_folder()
        self._leases: dict[str, Lease] = {}
        self._entering: dict[str, asyncio.Lock] = {}
        self.worker = Worker(ahead=self._look_ahead)

    @property
    def leases(self) -> int:
        """Places taken."""
        return len(self._leases)

    def claim(self, token: str | None = None) -> Lease:
        """Give a new client a place.

        Raises:
            Refusal: 503; all places are taken.
        """
        self._free_a_place()
        lease = self._place(token or secrets.token_hex(TOKEN_BYTES))
        if self.state is not None:
            lease.workspace.journal = self.state.journal(lease.token)
        return lease

    async def enter(self, token: str | None, *, is_action: bool = True) -> Lease:
        """Place of a client that comes back; parked work is restored.

        Raises:
            Refusal: 410; nothing of it is here, or 503; all places are taken.
        """
        if not token or len(token) > 128:
            raise gone("a lease is needed; claim one first")
        lease = self._leases.get(token)
        if lease is None:
            lease = await self._return(token)
        lease.seen = self.clock()
        if is_action:
            lease.used = lease.seen
        return lease

    async def enter_or_claim(self, token: str) -> Lease:
        """Place of a client that is known by something else than a lease of ours."""
        if token not in self._leases and not (self.state and self.state.knows(token)):
            return self.claim(token)
        return await self.enter(token)

    def peek(self, token: str | None) -> Lease | None:
        """Place of a client, without a sign of life."""
        return self._leases.get(token or "")

    def release(self, token: str | None) -> None:
        """Forget a client and delete all it had; unknown ones too, without a difference."""
        lease = self._leases.get(token or "")
        if lease is None:
            return
        journal = lease.workspace.journal
        self._clear(lease)
        if journal is not None:
            journal.forget()

    def reap(self) -> int:
        """Take back the places of silent and of idle clients; count them."""
        now, rules = self.clock(), self.settings
        ready = [
            lease
            for lease in self._leases.values()
            if now - lease.seen > rules.liveness_s or now - lease.used > rules.idle_s
        ]
        ready = [lease for lease in ready if not lease.tasks or now - lease.seen > rules.idle_s]
        for lease in ready:
            if lease.workspace.journal is not None:
                lease.workspace.journal.touch()
        if self.state is not None and ready:
            self.state.flush()  # before the images are overwritten
        for lease in ready:
            self._clear(lease)
        if self.state is not None:
            self.state.sweep(rules.keep_s)
        return len(ready)

    def remaining_s(self, lease: Lease) -> float:
        """Seconds until a client that does nothing loses its place."""
        return max(0.0, self.settings.idle_s - (self.clock() - lease.used))

    def reserve(self, n_bytes: int) -> None:
        """Check that memory for an image is left.

        Raises:
            Refusal: 503; it is not.
        """
        used = sum(lease.workspace.n_bytes for lease in self._leases.values())
        if used + n_bytes > self.settings.limits.total:
            raise busy("no memory is left for another image now", 30)

    def submit(
        self, lease: Lease, function: Callable[[Task[T]], T], *, is_urgent: bool = True
    ) -> Task[T]:
        """Have the device compute for a client; its urgent tasks run one after the other."""
        key = lease.token if is_urgent else secrets.token_hex(8)
        task = self.worker.submit(function, key=key, is_urgent=is_urgent)
        lease.tasks.add(task)
        task.future.add_done_callback(lambda _: lease.tasks.discard(task))
        return task

    async def compute(
        self, lease: Lease, function: Callable[[], T], connection: Connection | None = None
    ) -> T:
        """Compute for a client and wait; called off when it hangs up."""
        task = self.submit(lease, lambda _: function())
        future = asyncio.wrap_future(task.future)
        if connection is None:
            return await future
        hung_up = asyncio.ensure_future(_hung_up(connection))
        both: set[asyncio.Future[Any]] = {future, hung_up}
        done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if future not in done:
            task.cancel()
            future.add_done_callback(lambda one: one.cancelled() or one.exception())
            raise Cancelled
        hung_up.cancel()
        return future.result()

    async def compute_long(self, lease: Lease, function: Callable[[Task[T]], T]) -> T:
        """Compute behind all clicks, giving way to them, and wait."""
        return await asyncio.wrap_future(self.submit(lease, function, is_urgent=False).future)

    def everybody(self) -> list[Lease]:
        """All clients; for what a protocol looks up without saying who asks."""
        return list(self._leases.values())

    def cancel(self, lease: Lease) -> int:
        """Call off everything a client has in line or under way; count it."""
        tasks = list(lease.tasks)
        for task in tasks:
            task.cancel()
        return len(tasks)

    async def watch(self) -> None:
        """Reap for ever."""
        while True:
            await asyncio.sleep(REAP_EVERY_S)
            if count := self.reap():
                log.info("%d idle or silent clients lost their place", count)

    def close(self) -> None:
        """Stop computing, overwrite all images, write what is left of the journals."""
        for lease in list(self._leases.values()):
            self.cancel(lease)
        self.worker.close()
        for lease in self._leases.values():
            lease.workspace.wipe()
        self._leases.clear()
        if self.state is not None:
            self.state.close()
        shutil.rmtree(self.temporary, ignore_errors=True)

    def _place(self, token: str) -> Lease:
        lease = self._leases[token] = self._new(token)
        return lease

    def _new(self, token: str) -> Lease:
        now = self.clock()
        workspace = Workspace(self.residents, self.settings.limits, self.temporary)
        return Lease(token, workspace, seen=now, used=now)

    def _free_a_place(self) -> None:
        if len(self._leases) >= self.settings.max_leases:
            self.reap()
        if len(self._leases) >= self.settings.max_leases:
            raise busy(f"all {self.settings.max_leases} places are taken")

    async def _return(self, token: str) -> Lease:
        """Restore parked work, once, however many requests come at the same time."""
        lock = self._entering.setdefault(token, asyncio.Lock())
        try:
            async with lock:
                if (known := self._leases.get(token)) is not None:
                    return known
                if self.state is None or not self.state.knows(token):
                    raise gone("this lease is not known: it expired, or the server was restarted")
                self._free_a_place()
                journal = self.state.journal(token)
                lease = self._new(token)
                try:
                    await self.compute(lease, lambda: lease.workspace.replay(journal))
                except BaseException:
                    self._clear(lease)
                    raise
                # only now: a request that comes meanwhile must not find half of the work
                self._leases[token] = lease
                lease.seen = lease.used = self.clock()
                return lease
        finally:
            self._entering.pop(token, None)

    def _look_ahead(self) -> bool:
        """Encode one slice, for who acted last first; false if nobody needs one."""
        leases = sorted(self.everybody(), key=lambda lease: lease.used, reverse=True)
        return any(lease.workspace.look_ahead() for lease in leases)

    def _clear(self, lease: Lease) -> None:
        self._leases.pop(lease.token, None)
        self.cancel(lease)
        # after what still runs for this client has stopped
        self.worker.submit(lambda _: lease.workspace.wipe(), key=lease.token)


async def _hung_up(connection: Connection) -> None:
    while (await connection.receive())["type"] != "http.disconnect":
        pass
