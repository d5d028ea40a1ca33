"""What a training step costs beside other work, by how long threads turn in circles when they wait.

Run: python -m benchmarks.bench_threads [--threads 2]

The OpenMP library of torch lets waiting threads turn, which is cheapest on an idle machine. Where
another process holds one of the cores, they turn for as long as a thread of theirs does not come.
Every figure comes from fresh processes in turns. Writes `results/threads.{json,csv,md}`.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping

from benchmarks import table

WAYS: Mapping[str, Mapping[str, str]] = {
    "the library's own": {},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
ROUNDS, STEPS = 5, 6


def step_seconds() -> float:
    """Median wall time of a training step of `nano` with an adapter, two pictures."""
    import torch

    from segkit.adapters import DepthwiseDilated
    from segkit.models.build import nano
    from segkit.prompts.simulate import box_from_mask

    torch.manual_seed(0)
    model = nano(adapter=DepthwiseDilated).train()
    images, masks = torch.rand(2, 3, 256, 256), torch.zeros(2, 256, 256, dtype=torch.bool)
    masks[:, 60:180, 80:200] = True
    prompts, found = box_from_mask(masks), []
    for _ in range(STEPS + 1):
        start = time.perf_counter()
        model.decode(model.encode(images), prompts).logits.square().mean().backward()
        found.append(time.perf_counter() - start)
    return statistics.median(found[1:])


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """Other work: so many processes that never rest."""
    code = "while True: pass"
    others = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def main() -> None:
    """Measure every way of waiting beside no, one and two busy processes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_threads", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        print(step_seconds())
        return
    rows, raw = [], {}
    for others in (0, 1, 2):
        samples: dict[str, list[float]] = {way: [] for way in WAYS}
        with busy(others):
            for _ in range(ROUNDS):
                for way, change in WAYS.items():
                    threads = {"OMP_NUM_THREADS": str(args.threads)}
                    samples[way].append(_measured({**threads, **change}))
        default = statistics.median(samples["the library's own"])
        for way, found in samples.items():
            middle = statistics.median(found)
            rows.append({
                "busy processes": others, "waiting": way, "ms a step": round(1e3 * middle),
                "lowest": round(1e3 * min(found)), "highest": round(1e3 * max(found)),
                "ratio": round(middle / default, 3),
            })  # fmt: skip
        raw[f"{others} busy"] = samples
    notes = (
        f"Wall time of a training step of nano with an adapter on two pictures, {args.threads} "
        f"threads, median of {ROUNDS} processes of {STEPS} steps each; ratio to the library's own."
    )
    print(
        table.write("threads", "Threads beside other work", rows, notes=notes, raw=raw).read_text()
    )


def _measured(change: dict[str, str]) -> float:
    ours = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    rest = {name: value for name, value in os.environ.items() if name not in ours}
    words = [sys.executable, "-m", "benchmarks.bench_threads", "--inside"]
    run = subprocess.run(words, env=rest | change, check=True, capture_output=True, text=True)
    return float(run.stdout)


if __name__ == "__main__":
    main()
