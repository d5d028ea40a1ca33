"""All benchmarks that need no GPU: `make bench` (about five minutes on two cores)."""

import argparse
import subprocess
import sys

CPU = ("benchmarks.bench_encode", "benchmarks.bench_volume", "benchmarks.bench_windows")


def main() -> None:
    """Run each benchmark in a process of its own; stop at the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpu", action="store_true", required=True, help="the CPU rows")
    parser.parse_args()
    for module in CPU:
        subprocess.run([sys.executable, "-m", module], check=True)


if __name__ == "__main__":
    main()
