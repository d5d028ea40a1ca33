"""An hour at the pace of people: does the server grow, slow down or mix clients up?

Four annotators in processes of real clients' code over loopback, with nano on the CPU. Each opens a
volume, works on it with seconds of thought between its actions, compares every mask and voxel that
comes back, and takes the next one. Memory, open handles and threads of the server are noted every
minute.

Run: python -m benchmarks.soak --minutes 60      (make soak)
"""

import argparse
import csv
import random
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from benchmarks import table
from benchmarks.bench_serve import served, state_of
from segkit.client import RemotePredictor, ServerError
from segkit.client.codec import decode
from segkit.client.predictor import RemoteImage
from segkit.client.session import RemoteSession

SHAPE, SPACING_MM = (48, 192, 192), (3.0, 1.0, 1.0)
HOUR = 60.0
CLIENTS = 4
THINK_S = (8.0, 14.0)
ACTIONS = 12
PAUSE_S = 5.0
"""A gap in time as long as this means that the machine stood still, not that the server did."""


@dataclass
class Notes:
    """What happened, from all threads."""

    actions: Counter[str] = field(default_factory=Counter)
    clicks_s: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    pauses_s: list[float] = field(default_factory=list)
    minutes: list[dict[str, float]] = field(default_factory=list)

    def has_paused_since(self, start: float) -> bool:
        """Whether the machine stood still after a moment."""
        return time.monotonic() - start > 2 * PAUSE_S and any(
            at > start - PAUSE_S for at in self.paused_at
        )

    paused_at: list[float] = field(default_factory=list)


class Annotator(threading.Thread):
    """One person; voxels of all their images lie above a number of their own."""

    def __init__(self, number: int, url: str, end: float, notes: Notes) -> None:
        super().__init__(name=f"annotator-{number}")
        self._canary = 2000 * (number + 1)
        self._url, self._end, self._notes = url, end, notes
        self._dice = random.Random(number)
        self._numbers = np.random.default_rng(number)
        self._left: tuple[RemoteImage, RemoteSession]

    def run(self) -> None:
        """Work until the time is up; an error ends an image, not the work."""
        lease = ""
        while time.monotonic() < self._end:
            start = time.monotonic()
            try:
                lease = self._sit_down(lease)
            except ServerError as error:
                is_excused = self._notes.has_paused_since(start)
                kind = "after a pause" if is_excused else "failed"
                self._notes.actions[kind] += 1
                self._notes.failed.append(f"{kind}: {type(error).__name__}: {error}")
                lease = ""

    def _sit_down(self, lease: str) -> str:
        """Work on one image; leaves now and then, to come back by the lease."""
        remote = RemotePredictor(self._url, lease=lease, timeout_s=600, patience_s=60)
        try:
            if lease:
                self._take_up(remote)
            image, session = self._annotate(remote)
        except ServerError:
            remote.close()
            raise
        stays_away = self._dice.random() < 0.5
        if stays_away:
            self._left = image, session
        else:
            remote.drop(image)
        remote.close(keeps_work=stays_away)
        self._count("parked" if stays_away else "dropped")
        return remote.lease if stays_away else ""

    def _take_up(self, remote: RemotePredictor) -> None:
        """What was left behind must be there as it was."""
        image, old = self._left
        about = {"id": old.id, "model": old.model, "shape": SHAPE}
        if not np.array_equal(
            RemoteSession(remote._transport, about, image.id).fetch(), old.mask()
        ):
            self._notes.wrong.append("work that was parked came back different")
        remote.drop(image)
        self._count("taken up")

    def _annotate(self, remote: RemotePredictor) -> tuple[RemoteImage, RemoteSession]:
        volume = self._numbers.integers(0, 200, SHAPE, dtype=np.int16) + np.int16(self._canary)
        volume[10:38, 60:130, 50:140] += 900
        image = remote.upload(volume, spacing_mm=SPACING_MM)
        self._count("upload")
        self._check(remote, image, volume)
        session = remote.open(image)
        k = 24
        for _ in range(ACTIONS):
            if time.monotonic() > self._end:
                break
            self._think()
            k = min(37, max(10, k + self._dice.choice((0, 0, 0, 1, -1, 2))))
            self._act(session, k)
        if not np.array_equal(session.mask().copy(), session.fetch()):
            self._notes.wrong.append("the mask is not the sum of its changes")
        self._count("fetch")
        session.measurements()
        self._count("measurements")
        self._check(remote, image, volume)
        return image, session

    def _act(self, session: RemoteSession, k: int) -> None:
        place = (k, self._dice.randrange(60, 130), self._dice.randrange(50, 140))
        action = self._dice.choice(
            ("add", "add", "add", "add", "remove", "box", "scribble", "undo", "redo", "mask")
        )
        start = time.monotonic()
        match action:
            case "add" | "remove":
                session.add_points([place], [int(action == "add")])
            case "box":
                session.add_box(((k, 60, 50), (k + 1, 130, 140)))
            case "scribble":
                drawn = np.zeros((1, 1, 30), bool) | True
                session.add_scribble(drawn, box=((k, k + 1), (90, 91), (70, 100)))
            case "mask":
                held = np.zeros(SHAPE, bool)
                held[k, 70:120, 60:130] = True
                session.add_mask(held)
                if not np.array_equal(session.fetch(), held):
                    self._notes.wrong.append("a mask that was given came back different")
            case _:
                getattr(session, action)()
        if action in ("add", "remove") and not self._notes.has_paused_since(start):
            self._notes.clicks_s.append(time.monotonic() - start)
        self._count(action)

    def _check(self, remote: RemotePredictor, image: RemoteImage, volume: np.ndarray) -> None:
        k = self._dice.randrange(SHAPE[0])
        path = f"/segkit/v1/volumes/{image.id}/voxels?box={k}:{k + 1},0:{SHAPE[1]},0:{SHAPE[2]}"
        found = decode(remote._transport.request("GET", path).body, max_bytes=2**24)
        if not np.array_equal(found[0], volume[k]):
            self._notes.wrong.append("voxels of another image")
        self._count("voxels")

    def _think(self) -> None:
        seconds = self._dice.uniform(*THINK_S)
        time.sleep(max(0.0, min(seconds, self._end - time.monotonic())))

    def _count(self, action: str) -> None:
        self._notes.actions[action] += 1


def watch(pid: int, start: float, notes: Notes, done: threading.Event) -> None:
    """Note memory, handles and threads of the server every minute, and when the machine stood."""
    last, due = time.monotonic(), start
    while not done.wait(1.0):
        now = time.monotonic()
        if now - last > PAUSE_S:
            notes.pauses_s.append(now - last)
            notes.paused_at.append(now)
        last = now
        if now >= due:
            due = now + 60
            notes.minutes.append({"minute": (now - start) / 60, **state_of(pid)})


def soak(minutes: float) -> tuple[dict[str, object], Notes]:
    """Let the annotators work; the row of the table, and everything noted."""
    notes, done = Notes(), threading.Event()
    with tempfile.TemporaryDirectory() as folder, served("--state-dir", folder) as (url, pid):
        start = time.monotonic()
        end = start + 60 * minutes
        watcher = threading.Thread(target=watch, args=(pid, start, notes, done))
        people = [Annotator(number, url, end, notes) for number in range(CLIENTS)]
        for thread in (watcher, *people):
            thread.start()
        for one in people:
            one.join()
        done.set()
        watcher.join()
        notes.minutes.append({"minute": (time.monotonic() - start) / 60, **state_of(pid)})
    return summary(notes), notes


def summary(notes: Notes) -> dict[str, object]:
    """Medians of the second and of the last tenth of the time are compared."""
    total = notes.minutes[-1]["minute"]
    early = [one for one in notes.minutes if 0.1 * total <= one["minute"] <= 0.2 * total]
    late = [one for one in notes.minutes if one["minute"] >= 0.9 * total]
    before, after = (
        {key: float(np.median([one[key] for one in part])) for key in ("MiB", "handles", "threads")}
        for part in (early or notes.minutes[:1], late)
    )
    counted = {key: value for key, value in notes.actions.items() if key[-6:] not in ("pause",)}
    return {
        "case": f"{CLIENTS} annotators, {total:.0f} minutes",
        "actions": sum(counted.values()) - counted.get("failed", 0),
        "wrong answers": len(notes.wrong),
        "failed": notes.actions["failed"],
        "failed after a pause": notes.actions["after a pause"],
        "MiB in the second tenth": before["MiB"],
        "MiB in the last tenth": after["MiB"],
        "growth %": 100 * (after["MiB"] / before["MiB"] - 1),
        "handles": f"{before['handles']:.0f} -> {after['handles']:.0f}",
        "threads": f"{before['threads']:.0f} -> {after['threads']:.0f}",
        "click ms, median": 1e3 * float(np.median(notes.clicks_s)),
        "click ms, p95": 1e3 * float(np.percentile(notes.clicks_s, 95)),
        "server CPU %": 100 * notes.minutes[-1]["cpu s"] / (60 * total),
        "pauses of the machine": len(notes.pauses_s),
        "seconds paused": sum(notes.pauses_s),
    }


def main() -> None:
    """Soak and write `results/serve_soak*`, under a name with the minutes if it is not an hour."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=HOUR)
    args = parser.parse_args()
    row, notes = soak(args.minutes)
    text = (
        f"A volume of {' x '.join(map(str, SHAPE))} each, {THINK_S[0]:g} to {THINK_S[1]:g} s of "
        "thought between actions, work kept on disk, every second client parked and taken up "
        "again by its lease. The machine was shared with other work, and at times stood still "
        f"(gaps of more than {PAUSE_S:g} s are counted as pauses): click times are those of a busy "
        f"machine. Actions: {dict(sorted(notes.actions.items()))}."
    )
    if notes.failed or notes.wrong:
        text += f" What failed: {notes.failed[:10]}; what was wrong: {notes.wrong[:10]}."
    title = f"segkit serve -m nano over {args.minutes:g} minutes, 2-core x86-64 CPU"
    name = "serve_soak" if args.minutes == HOUR else f"serve_soak_{args.minutes:g}"
    path = table.write(name, title, [row], notes=text)
    with (table.RESULTS / f"{name}_minutes.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(notes.minutes[0]))
        writer.writeheader()
        writer.writerows(notes.minutes)
    print(path.read_text())


if __name__ == "__main__":
    main()
