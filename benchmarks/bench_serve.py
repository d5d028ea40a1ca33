"""The server as a client sees it: real processes over loopback, with nano on the CPU.

Run: python -m benchmarks.bench_serve                      latency, 512 x 512 x 300
     python -m benchmarks.bench_serve --only leak          10,000 interleaved requests, 16 clients
     python -m benchmarks.bench_serve --only soak --minutes 60
     python -m benchmarks.bench_serve --only learn         learning from corrections
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks import table
from segkit.client import RemotePredictor
from segkit.client.codec import decode
from segkit.data.phantom.volume import phantom_volume

SHAPE, SPACING_MM = (300, 512, 512), (2.5, 0.8, 0.8)
CLICKS = 60


@contextmanager
def served(*flags: str) -> Iterator[tuple[str, int]]:
    """Address and process number of a server with nano."""
    words = [sys.executable, "-m", "segkit.serve", "-m", "nano", "--port", "0", "--device", "cpu"]
    process = subprocess.Popen([*words, *flags], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}", process.pid
    finally:
        process.terminate()
        process.wait(20)


def latency() -> list[dict[str, object]]:
    """Upload, first click and further clicks, until the changed box is in the client's mask."""
    volume = np.random.default_rng(0).integers(-1000, 1000, size=SHAPE, dtype=np.int16)
    volume[100:200, 150:350, 150:350] += 2000
    rng = np.random.default_rng(1)
    with served() as (url, _), RemotePredictor(url) as remote:
        uploads = []
        for _ in range(3):
            start = time.perf_counter()
            image = remote.upload(volume, spacing_mm=SPACING_MM)
            uploads.append(time.perf_counter() - start)
            remote.drop(image)
        image = remote.upload(volume, spacing_mm=SPACING_MM)
        start = time.perf_counter()
        session = remote.open(image).add_points([(150, 250, 250)], [1])
        first = time.perf_counter() - start
        again, fresh = [], []
        for number in range(CLICKS):
            # most clicks correct a slice that is shown, some go to a new one
            is_fresh = number % 4 == 3
            k = int(rng.integers(100, 200)) if is_fresh else 150
            place = (k, int(rng.integers(150, 350)), int(rng.integers(150, 350)))
            start = time.perf_counter()
            session.add_points([place], [1])
            (fresh if is_fresh else again).append(time.perf_counter() - start)
    return [
        _row("upload, 157 MB raw", uploads, 1.0),
        _row("open and first click", [first], 1.5),
        _row("further clicks, same slice", again, 0.2),
        _row("further clicks, new slice", fresh, 0.2),
        _row("further clicks, all", again + fresh, 0.2),
    ]


def _row(case: str, seconds: list[float], goal: float) -> dict[str, object]:
    times = np.array(seconds) * 1e3
    p95 = float(np.percentile(times, 95))
    return {
        "case": case,
        "n": len(times),
        "median ms": float(np.median(times)),
        "p95 ms": p95,
        "goal ms": goal * 1e3,
        "met": "yes" if p95 <= goal * 1e3 else "no",
        "load": _load(),
    }


def _load() -> float:
    """Load average of the last minute."""
    return round(os.getloadavg()[0], 1)


def leak(requests: int, minutes: float, clients: int = 16) -> dict[str, object]:
    """Interleaved requests of clients whose voxels and masks name them, for `minutes` at most."""
    start = time.perf_counter()
    end = start + 60 * minutes

    def goes_on(count: int, _: int) -> bool:
        return count * clients < requests and time.perf_counter() < end

    with served("--max-sessions", str(clients)) as (url, _):
        done, wrong = _crowd(url, clients, goes_on)
    return {
        "case": f"{clients} clients",
        "requests": done,
        "leaks": wrong,
        "seconds": time.perf_counter() - start,
        "load": _load(),
    }


def soak(minutes: float, clients: int = 4) -> dict[str, object]:
    """Keep working; compare memory after a warm-up of a tenth with memory at the end."""
    with served() as (url, pid):
        end = time.monotonic() + 60 * minutes
        sizes: list[tuple[float, int]] = []

        def watch(_: int, number: int) -> bool:
            if number == 0:
                sizes.append((time.monotonic(), _memory(pid)))
            return time.monotonic() < end

        done, wrong = _crowd(url, clients, watch)
    warm = end - 54 * minutes
    early = [size for at, size in sizes if at <= warm][-1]
    late = sizes[-1][1]
    return {
        "case": f"soak of {minutes:g} minutes, {clients} clients",
        "requests": done,
        "leaks": wrong,
        "MiB after warm-up": early / 2**20,
        "MiB at the end": late / 2**20,
        "growth %": 100 * (late - early) / early,
        "load": _load(),
    }


def _crowd(url: str, clients: int, goes_on: object) -> tuple[int, int]:
    """Clients in threads; requests done, and answers that were another's."""
    done, wrong = [0] * clients, [0] * clients

    def work(number: int) -> None:
        canary = 1000 * (number + 1)
        volume = np.full((4, 64, 64), canary, np.int16)
        with RemotePredictor(url) as remote:
            while goes_on(done[number], number):  # type: ignore[operator]
                image = remote.upload(volume, spacing_mm=(1.0, 1.0, 1.0))
                session = remote.open(image)
                done[number] += 2
                for turn in range(8):
                    mask = np.zeros(volume.shape, bool)
                    mask[turn % 4, number : number + turn + 1] = True
                    session.add_mask(mask)
                    wrong[number] += not np.array_equal(session.fetch(), mask)
                    path = f"/segkit/v1/volumes/{image.id}/voxels?box=0:4,{turn}:64,0:64"
                    body = remote._transport.request("GET", path).body
                    wrong[number] += bool((decode(body, max_bytes=2**20) != canary).any())
                    done[number] += 3
                session.add_points([(1, 30, 30)], [1]).undo()
                remote.drop(image)
                done[number] += 3

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return sum(done), sum(wrong)


def _memory(pid: int) -> int:
    """Resident bytes of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def learning(trials: int = 3) -> list[dict[str, object]]:
    """Correct two generated volumes, learn with the defaults, measure on slices held out."""
    rows = []
    with served() as (url, _):
        for trial in range(trials):
            with RemotePredictor(url) as remote:
                rows.append(_learn(remote, trial))
    return rows


def _learn(remote: RemotePredictor, trial: int) -> dict[str, object]:
    for number in range(2):
        # no seed that nano was trained on
        volume, labels, spacing_mm = phantom_volume((4711, trial, number))
        remote.open(volume, spacing_mm=spacing_mm).accept(labels > 0)
    start = time.perf_counter()
    outcome = remote.learn("nano")
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    remote.choose("nano", 0)
    return {
        "case": f"two corrected volumes, trial {trial + 1}",
        "slices": outcome["slices"],
        "steps": outcome["steps"],
        "seconds": seconds,
        "goal s": 60,
        "Dice before": outcome["before"],
        "Dice after": outcome["after"],
        "taken over": "yes" if outcome["has_helped"] else "no",
        "roll back s": time.perf_counter() - start,
        "load": _load(),
    }


def main() -> None:
    """Measure and write `results/serve_*`."""
    parser = argparse.ArgumentParser(description=__doc__)
    cases = ("latency", "leak", "soak", "learn")
    parser.add_argument("--only", choices=cases, default="latency")
    parser.add_argument("--minutes", type=float, default=60.0, help="of soak; at most, of leak")
    parser.add_argument("--requests", type=int, default=10_000)
    args = parser.parse_args()
    title = f"segkit serve -m nano on 2-core x86-64 CPU: {args.only}"
    match args.only:
        case "latency":
            rows = latency()
        case "leak":
            rows = [leak(args.requests, args.minutes)]
        case "soak":
            rows = [soak(args.minutes)]
        case _:
            rows = learning()
    notes = (
        "Other work ran on the same two cores; `load` is the load average, where it is given: "
        "above 2 the figures are those of a busy machine."
    )
    print(table.write(f"serve_{args.only}", title, rows, notes=notes).read_text())


if __name__ == "__main__":
    main()
