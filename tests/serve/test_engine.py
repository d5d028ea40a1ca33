"""Leases, parking, computing: with a clock of the test's own."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from serving import SHAPE, body_volume, tiny_engine

from segkit.client.codec import encode
from segkit.serve.engine import Engine, Lease
from segkit.serve.faults import Cancelled, Refusal, as_refusal
from segkit.serve.images import About, from_array
from segkit.serve.messages import Box, Points, Propagate
from segkit.serve.settings import Limits
from segkit.serve.state import Journal
from segkit.serve.worker import Worker, pause
from segkit.serve.workspace import Workspace

CLICK = Points(points=((6, 20, 24),), labels=(1,))
WIDE = Box(box=((0, 12), (12, 28), (14, 34)))


class Clock:
    """Seconds that pass when they are told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(clock: Clock, tmp_path: Path) -> Iterator[Engine]:
    engine = tiny_engine(tmp_path / "state", max_leases=2)
    engine.clock = clock
    yield engine
    engine.close()


@pytest.fixture
def bare(clock: Clock) -> Iterator[Engine]:
    engine = tiny_engine(max_leases=2)
    engine.clock = clock
    yield engine
    engine.close()


def sent(value: int = 0) -> bytearray:
    return bytearray(b"".join(encode(body_volume(value))))


def put(lease: Lease, value: int = 0) -> str:
    image = from_array(sent(value), About(spacing_mm=(3.0, 1.0, 0.8)), max_bytes=2**24)
    return lease.workspace.add_image(image)


def on_device(engine: Engine, lease: Lease, work: Callable[[], Any]) -> Any:
    return engine.submit(lease, lambda _: work()).future.result(60)


def marked(engine: Engine, lease: Lease) -> tuple[str, np.ndarray]:
    """An object with three prompts, one of them undone; its id and mask."""

    def work() -> tuple[str, np.ndarray]:
        space = lease.workspace
        item = space.open(put(lease), None, "liver")
        for prompt in (CLICK, Box(box=((4, 6), (12, 28), (14, 34))), WIDE):
            space.prompt(item, prompt)
            space.render(item)
        space.act(item, "undo")
        space.render(item)
        return item.id, item.annotation.mask()

    found: tuple[str, np.ndarray] = on_device(engine, lease, work)
    return found


def test_a_silent_client_loses_its_place_s14(bare: Engine, clock: Clock) -> None:
    lease = bare.claim()
    put(lease)
    voxels = next(iter(lease.workspace.images.values())).source.array
    clock.now = bare.settings.liveness_s + 1
    assert bare.reap() == 1
    assert bare.leases == 0
    with pytest.raises(Refusal, match="not known") as refused:
        asyncio.run(bare.enter(lease.token))
    assert refused.value.status == 410
    bare.worker.submit(lambda _: None).future.result(10)
    assert not voxels.any(), "its images are overwritten"


def test_heartbeats_do_not_save_an_idle_client(bare: Engine, clock: Clock) -> None:
    lease = bare.claim()
    while clock.now < bare.settings.idle_s:
        clock.now += 30
        asyncio.run(bare.enter(lease.token, is_action=False))
        bare.reap()
    clock.now += 30
    bare.reap()
    assert bare.leases == 0


def test_actions_keep_a_place(bare: Engine, clock: Clock) -> None:
    lease = bare.claim()
    for _ in range(30):
        clock.now += 50
        asyncio.run(bare.enter(lease.token))
        bare.reap()
    assert bare.leases == 1


def test_a_place_of_the_dead_goes_to_the_living(bare: Engine, clock: Clock) -> None:
    bare.claim()
    bare.claim()
    with pytest.raises(Refusal, match="all 2 places are taken"):
        bare.claim()
    clock.now = 61
    bare.claim()


def test_parked_work_comes_back_exactly(engine: Engine, clock: Clock) -> None:
    lease = engine.claim()
    name, mask = marked(engine, lease)
    clock.now = 10_000
    engine.reap()
    assert engine.leases == 0
    back = asyncio.run(engine.enter(lease.token))
    item = back.workspace.item(name)

    def again() -> tuple[np.ndarray, np.ndarray]:
        back.workspace.refresh(item)
        kept = item.annotation.mask()
        back.workspace.act(item, "redo")
        return kept, item.annotation.mask()

    kept, redone = on_device(engine, back, again)
    np.testing.assert_array_equal(kept, mask)
    assert redone.sum() != mask.sum() or (redone != mask).any()
    assert item.annotation.name == "liver"


def test_requests_that_come_during_a_restore_wait_for_it_s19(
    engine: Engine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A heartbeat begins the restore; the click behind it must find its object."""
    lease = engine.claim()
    name, _ = marked(engine, lease)
    clock.now = 10_000
    engine.reap()
    replay = Workspace.replay

    def slow(space: Workspace, journal: Journal) -> None:
        time.sleep(0.2)
        replay(space, journal)

    monkeypatch.setattr(Workspace, "replay", slow)

    async def beat_and_click() -> list[Lease]:
        beat = asyncio.ensure_future(engine.enter(lease.token, is_action=False))
        await asyncio.sleep(0.05)
        click = await engine.enter(lease.token)
        assert click.workspace.item(name)
        return [await beat, click]

    first, second = asyncio.run(beat_and_click())
    assert first is second


def test_work_survives_a_restart_s19(tmp_path: Path) -> None:
    first = tiny_engine(tmp_path / "state")
    lease = first.claim()
    name, mask = marked(first, lease)
    first.close()
    second = tiny_engine(tmp_path / "state")
    try:
        back = asyncio.run(second.enter(lease.token))
        found = on_device(second, back, back.workspace.item(name).annotation.mask)
        np.testing.assert_array_equal(found, mask)
    finally:
        second.close()


def test_state_is_private_and_nameless(tmp_path: Path) -> None:
    engine = tiny_engine(tmp_path / "state")
    lease = engine.claim()
    marked(engine, lease)
    engine.close()
    files = [path for path in (tmp_path / "state").rglob("*") if path.name != "state"]
    assert len(files) >= 5
    for path in files:
        assert path.stat().st_mode & 0o077 == 0, path
        assert lease.token not in str(path)


def test_what_cannot_be_restored_is_gone_with_a_reason_s19(tmp_path: Path) -> None:
    first = tiny_engine(tmp_path / "state")
    lease = first.claim()
    marked(first, lease)
    first.close()
    next((tmp_path / "state" / "work").glob("*/000001.bin")).write_bytes(b"damaged")
    second = tiny_engine(tmp_path / "state")
    try:
        with pytest.raises(Refusal, match="could not be restored") as refused:
            asyncio.run(second.enter(lease.token))
        assert refused.value.status == 410
        assert second.leases == 0
    finally:
        second.close()


def test_released_work_is_deleted(engine: Engine) -> None:
    lease = engine.claim()
    marked(engine, lease)
    assert engine.state is not None
    engine.state.flush()
    assert engine.state.knows(lease.token)
    engine.release(lease.token)
    engine.state.flush()
    assert not engine.state.knows(lease.token)


def test_two_servers_do_not_share_a_state_folder(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="another server uses this state folder"):
        tiny_engine(tmp_path / "state")


def test_half_written_files_are_removed_at_start_s22(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "work" / "abc"
    folder.mkdir(parents=True)
    (folder / "000001.tmp").write_bytes(b"half")
    engine = tiny_engine(tmp_path / "state")
    temporary = engine.temporary
    assert not (folder / "000001.tmp").exists()
    assert temporary.stat().st_mode & 0o077 == 0
    engine.close()
    assert not temporary.exists()


def test_temporary_folders_of_dead_processes_are_removed_s22() -> None:
    engine = tiny_engine()
    dead = engine.temporary.parent / "999999999-abc"
    dead.mkdir()
    (dead / "upload.nii.gz").write_bytes(b"voxels")
    tiny_engine().close()
    assert not dead.exists()
    assert engine.temporary.exists(), "that of a running one stays"
    engine.close()


def test_cancelling_frees_the_device_within_a_step_s13(bare: Engine) -> None:
    lease = bare.claim()
    item = on_device(bare, lease, lambda: lease.workspace.open(put(lease), None, "x"))
    began = threading.Event()

    def long() -> None:
        began.set()
        for _ in range(10_000):
            time.sleep(0.005)
            pause()

    task = bare.submit(lease, lambda _: long())
    assert began.wait(10)
    start = time.monotonic()
    assert bare.cancel(lease) == 1
    with pytest.raises(Cancelled):
        task.future.result(10)
    bare.worker.submit(lambda _: None).future.result(10)
    assert time.monotonic() - start < 0.25
    assert not on_device(bare, lease, lambda: item.annotation.mask().any())


def test_a_cancelled_prompt_leaves_the_state_before_it_s13(bare: Engine) -> None:
    lease = bare.claim()
    space = lease.workspace
    item = on_device(bare, lease, lambda: space.open(put(lease), None, "x"))

    def first() -> np.ndarray:
        space.prompt(item, CLICK)
        space.render(item)
        return item.annotation.mask()

    before = on_device(bare, lease, first)

    def stopped() -> None:
        space.prompt(item, WIDE)
        bare.cancel(lease)
        space.render(item)

    with pytest.raises(Exception, match=r"^$|stopped|cancel"):
        on_device(bare, lease, stopped)
    after = on_device(bare, lease, item.annotation.mask)
    np.testing.assert_array_equal(after, before)
    assert item.annotation.count == 1


def test_clicks_pass_long_work(bare: Engine) -> None:
    """A click of one client is answered while a long task of another runs."""
    slow, quick = bare.claim(), bare.claim()
    done = threading.Event()

    def long() -> None:
        while not done.is_set():
            time.sleep(0.002)
            pause()

    task = bare.submit(slow, lambda _: long(), is_urgent=False)
    assert on_device(bare, quick, lambda: 42) == 42
    done.set()
    task.future.result(10)


def test_tasks_of_one_client_keep_their_order() -> None:
    worker, seen = Worker(), []
    begin = threading.Event()

    def note(value: int) -> None:
        begin.wait(5)
        pause()
        seen.append(value)

    tasks = [worker.submit(lambda _, n=n: note(n), key="a") for n in range(5)]  # type: ignore[misc]
    begin.set()
    for task in tasks:
        task.future.result(10)
    worker.close()
    assert seen == [0, 1, 2, 3, 4]
    with pytest.raises(Cancelled):
        worker.submit(lambda _: None).future.result(1)


def test_two_clients_never_see_each_other_s15_s16(bare: Engine) -> None:
    one, two = bare.claim(), bare.claim()
    names = [put(lease, value) for lease, value in ((one, 1000), (two, 2000))]
    assert names[0] != names[1]
    with pytest.raises(Refusal, match="no such image"):
        two.workspace.image(names[0])
    voxels = one.workspace.image(names[0]).source.array
    bare.release(one.token)
    bare.worker.submit(lambda _: None).future.result(10)
    assert not voxels.any(), "overwritten before the memory is used again"
    assert two.workspace.image(names[1]).source.array.min() >= 2000


def test_memory_is_bounded_s21() -> None:
    engine = tiny_engine(limits=Limits(total=10_000))
    with pytest.raises(Refusal, match="no memory is left") as refused:
        engine.reserve(20_000)
    assert refused.value.headers["Retry-After"]
    engine.close()


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("out of memory")])
def test_running_out_of_memory_is_503_s21(error: BaseException) -> None:
    refusal = as_refusal(error)
    assert (refusal.status, refusal.headers["Retry-After"]) == (503, "30")


def test_what_is_not_expected_tells_nothing_s17(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise KeyError("/home/jane-doe/scan.nii.gz")
    except KeyError as error:
        refusal = as_refusal(error)
    assert refusal.status == 500
    assert "jane" not in refusal.detail + caplog.text
    assert "KeyError" in caplog.text


def test_propagation_reaches_other_slices(bare: Engine) -> None:
    lease = bare.claim()

    def work() -> tuple[int, int]:
        space = lease.workspace
        item = space.open(put(lease), None, "x")
        space.prompt(item, WIDE)
        space.render(item)
        space.act(item, "reset")
        space.prompt(item, Box(box=((6, 7), (12, 28), (14, 34))))
        space.render(item)
        alone = int(item.annotation.mask().any(axis=(1, 2)).sum())
        space.prompt(item, Propagate(start=4, stop=9))
        space.render(item)
        return alone, int(item.annotation.mask().any(axis=(1, 2)).sum())

    alone, reached = on_device(bare, lease, work)
    assert alone <= 1
    assert alone <= reached <= SHAPE[0]
