"""The server as a client sees it: real processes over loopback, with nano on the CPU.

Run: python -m benchmarks.bench_serve                      latency, 512 x 512 x 300
     python -m benchmarks.bench_serve --only leak          10,000 interleaved requests, 16 clients
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks import table
from segkit.client import RemotePredictor
from segkit.client.codec import decode

SHAPE, SPACING_MM = (300, 512, 512), (2.5, 0.8, 0.8)
PARTS = 5
IMAGES, CLICKS, STEPS, THOUGHT_S = 5, 40, 4, 0.8
NOTES = {
    "latency": "Client and server on the same two cores; `other work` is the share of them that "
    "anything else took. Work is kept on disk, as by default. Times end when the changed voxels "
    "are in the client's mask.",
    "leak": "Every answer is compared: voxels with the number of their client, masks with what was "
    "sent. The machine was shared with other work, which `load` tells.",
}


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
    with tempfile.TemporaryDirectory() as folder, served("--state-dir", folder) as (url, pid):
        before = _busy_s() - state_of(pid)["cpu s"] - time.process_time()
        start = time.perf_counter()
        rows = _latency(url)
        after = _busy_s() - state_of(pid)["cpu s"] - time.process_time()
        others = (after - before) / (time.perf_counter() - start) / (os.cpu_count() or 1)
    return [{**row, "other work %": 100 * max(0.0, others)} for row in rows]


def _busy_s() -> float:
    """Seconds that all cores together have worked since the machine was started."""
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    user, nice, system = (int(one) for one in words[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def _latency(url: str) -> list[dict[str, object]]:
    volume = np.random.default_rng(0).integers(-1000, 1000, size=SHAPE, dtype=np.int16)
    volume[100:200, 150:350, 150:350] += 2000
    rng = np.random.default_rng(1)
    uploads, first, again, fresh, walked = ([] for _ in range(5))  # type: ignore[var-annotated]

    def timed(where: list[float], k: int) -> None:
        place = (k, int(rng.integers(150, 350)), int(rng.integers(150, 350)))
        start = time.perf_counter()
        session.add_points([place], [1])
        where.append(time.perf_counter() - start)

    for number in range(IMAGES):
        with RemotePredictor(url) as remote:
            start = time.perf_counter()
            image = remote.upload(volume, spacing_mm=SPACING_MM)
            uploads.append(time.perf_counter() - start)
            start = time.perf_counter()
            session = remote.open(image).add_points([(150, 250, 250)], [1])
            first.append(time.perf_counter() - start)
            for click in range(CLICKS):
                # most clicks correct the slice that is shown, some go to one far away
                is_fresh = click % 4 == 3
                timed(fresh if is_fresh else again, 10 * number + click if is_fresh else 150)
            for k in range(200, 200 + STEPS):
                time.sleep(THOUGHT_S)
                timed(walked, k)
    return [
        _row("upload, 157 MB raw", uploads, 1.0),
        _row("open and first click", first, 1.5),
        _row("further clicks, same slice", again, 0.2),
        _row("further clicks, a slice far away", fresh, 0.2),
        _row("further clicks, all", again + fresh, 0.2),
        _row(f"the next slice after {THOUGHT_S:g} s of thought", walked[1:], 0.2),
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
    }


def _load() -> float:
    """Load average of the last minute."""
    return round(os.getloadavg()[0], 1)


def leak(requests: int, minutes: float, clients: int = 16) -> dict[str, object]:
    """Interleaved requests of clients whose voxels and masks name them, for `minutes` at most.

    In five parts, with clients of their own; memory and handles are looked at between them.
    """
    done = wrong = 0
    states: list[dict[str, float]] = []
    start = time.perf_counter()
    with served("--max-sessions", str(clients)) as (url, pid):
        for _ in range(PARTS):
            goes_on = _until(-(-requests // PARTS // clients), minutes / PARTS)
            more, leaks = _crowd(url, clients, goes_on)
            done, wrong = done + more, wrong + leaks
            time.sleep(1.0)
            states.append(state_of(pid))
    first, last = states[0], states[-1]
    return {
        "case": f"{clients} clients",
        "requests": done,
        "leaks": wrong,
        "seconds": time.perf_counter() - start,
        "MiB after each fifth": ", ".join(f"{one['MiB']:.0f}" for one in states),
        "growth % from first to last": 100 * (last["MiB"] / first["MiB"] - 1),
        "handles": f"{first['handles']:.0f} -> {last['handles']:.0f}",
        "threads": f"{first['threads']:.0f} -> {last['threads']:.0f}",
        "load": _load(),
    }


def _until(each: int, minutes: float) -> Callable[[int], bool]:
    """Whether a client that has sent so many requests goes on."""
    end = time.perf_counter() + 60 * minutes
    return lambda count: count < each and time.perf_counter() < end


def _crowd(url: str, clients: int, goes_on: Callable[[int], bool]) -> tuple[int, int]:
    """Clients in threads; requests done, and answers that were another's."""
    done, wrong = [0] * clients, [0] * clients

    def work(number: int) -> None:
        canary = 1000 * (number + 1)
        volume = np.full((4, 64, 64), canary, np.int16)
        with RemotePredictor(url) as remote:
            while goes_on(done[number]):
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


def state_of(pid: int) -> dict[str, float]:
    """Resident MiB, open handles, threads and CPU seconds of a process."""
    proc = Path(f"/proc/{pid}")
    pages = int((proc / "statm").read_text().split()[1])
    words = (proc / "stat").read_text().rpartition(")")[2].split()
    return {
        "MiB": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        "handles": len(list((proc / "fd").iterdir())),
        "threads": int(words[17]),
        "cpu s": (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK"),
    }


def main() -> None:
    """Measure and write `results/serve_*`."""
    parser = argparse.ArgumentParser(description=__doc__)
    cases = ("latency", "leak")
    parser.add_argument("--only", choices=cases, default="latency")
    parser.add_argument("--minutes", type=float, default=60.0, help="at most, of leak")
    parser.add_argument("--requests", type=int, default=10_000)
    args = parser.parse_args()
    title = f"segkit serve -m nano on 2-core x86-64 CPU: {args.only}"
    rows = latency() if args.only == "latency" else [leak(args.requests, args.minutes)]
    notes = NOTES.get(args.only, "")
    print(table.write(f"serve_{args.only}", title, rows, notes=notes).read_text())


if __name__ == "__main__":
    main()
