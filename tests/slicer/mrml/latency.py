"""Time from a mark to voxels in the segment, with real MRML; prints JSON.

`python -m benchmarks.bench_serve_slicer` runs this with the Python that has slicer-core.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [
    str(HERE),
    str(HERE.parents[2] / "integrations" / "slicer" / "SegKit" / "SegKit"),
]
SHAPE = (300, 512, 512)
OBLIQUE = [[-0.78, 0.05, 0.2, 180], [0.05, -0.78, 0.3, 170], [0.07, 0.1, 2.5, -300], [0, 0, 0, 1]]


def main() -> None:
    """One volume, one segment, clicks on its slices; the scene also holds a second segment."""
    import bootstrap

    kept = bootstrap.start()
    import scenes
    import slicer

    voxels = np.random.default_rng(0).integers(-1000, 1000, size=SHAPE, dtype=np.int16)
    voxels[100:200, 150:350, 150:350] += 2000
    node = slicer.util.addVolumeFromArray(voxels, ijkToRAS=np.array(OBLIQUE), name="large")
    case = scenes.case(node)
    case.bench.start_server(os.environ["SEGKIT_PYTHON"], ["nano"], dict(os.environ))
    assert case.bench.wait(120), case.bench.server.log
    random = np.random.default_rng(1)

    def seconds(target: object, place: tuple[int, int, int]) -> float:
        placed = scenes.markups(node, "Fiducial", [place])
        start = time.perf_counter()
        case.bench.mark(target, "points", placed)
        while case.bench.poll(0.002):
            assert time.perf_counter() - start < 60
        took = time.perf_counter() - start
        assert not case.bench.controller.is_error, case.bench.controller.message
        slicer.mrmlScene.RemoveNode(placed)
        return took

    def somewhere(k: int) -> tuple[int, int, int]:
        return (k, int(random.integers(150, 350)), int(random.integers(150, 350)))

    neighbour, target = case.target("neighbour"), case.target("lesion")
    found = {"first mark, sends the volume": [seconds(neighbour, (120, 250, 250))]}
    found["first click of a second segment"] = [seconds(target, (150, 250, 250))]
    found["further clicks, same slice"] = [seconds(target, somewhere(150)) for _ in range(30)]
    found["further clicks, a slice far away"] = [
        seconds(target, somewhere(k)) for k in range(105, 200, 10)
    ]
    assert case.bench.scene.mask(target).any()
    case.bench.close()
    print(json.dumps(found))  # noqa: T201 (what the benchmark reads)
    del kept


if __name__ == "__main__":
    main()
