"""Row DT4: all surface metrics of a case against MONAI's, on two ellipsoids in a CT-sized grid.

Run: python -m benchmarks.bench_metrics
"""

import monai.metrics
import numpy as np
import torch

import segkit.torchvision_compat  # noqa: F401  (before monai)
from benchmarks import table
from benchmarks.rows import LIMIT, Row, WrongResultError, raw_samples
from benchmarks.timing import contest
from segkit.metrics.surface import Definition, surface_distances

SHAPE, SPACING_MM = (256, 256, 160), (0.8, 0.8, 2.0)


def ellipsoid(centre_mm: tuple[float, ...], radii_mm: tuple[float, ...]) -> np.ndarray:
    """Voxels strictly inside."""
    axes = [
        ((np.arange(n) * step - c) / r) ** 2
        for n, step, c, r in zip(SHAPE, SPACING_MM, centre_mm, radii_mm, strict=True)
    ]
    return np.add.outer(np.add.outer(axes[0], axes[1]), axes[2]) < 1


def main() -> None:
    """Measure and write `results/metrics.*`."""
    prediction = ellipsoid((100, 100, 160), (45, 40, 60))
    reference = ellipsoid((103, 99, 163), (44, 42, 58))
    pair = [torch.tensor(mask)[None, None] for mask in (prediction, reference)]
    spacing: tuple[float, ...] = SPACING_MM

    def ours(definition: Definition) -> tuple[float, float, float, float]:
        found = surface_distances(prediction, reference, spacing, definition=definition)
        return found.hausdorff_mm(), found.hausdorff_mm(100), found.assd_mm(), found.nsd(2.0)

    def theirs() -> tuple[float, float]:
        hd95 = monai.metrics.compute_hausdorff_distance(*pair, percentile=95, spacing=spacing)
        nsd = monai.metrics.compute_surface_dice(
            *pair, class_thresholds=[2.0], include_background=True, spacing=spacing
        )
        return float(hd95), float(nsd)

    mine, peer = ours("voxel"), theirs()
    off = max(abs(mine[0] - peer[0]) / peer[0], abs(mine[3] - peer[1]) / peer[1])
    if off > LIMIT:
        raise WrongResultError(f"metrics differ by {off:.1e}")
    calls = {"voxel": lambda: ours("voxel"), "surfel": lambda: ours("surfel"), "peer": theirs}
    times = contest(calls, rounds=3, warm_up=False)
    rows = [
        Row(
            "DT4", f"HD95, HD, ASSD and NSD, {definition} surfaces", times[definition].least_ms,
            times["peer"].least_ms, "ms CPU", 0.2, "MONAI HD95 and NSD",
            off if definition == "voxel" else None,
            "" if definition == "voxel" else "another definition than MONAI's: time alone",
            {way: times[way].samples_ms for way in (definition, "peer")},
        )
        for definition in ("voxel", "surfel")
    ]  # fmt: skip
    title = "Surface metrics on the CPU"
    cells = [row.cells() for row in rows]
    notes = f"Ellipsoids of 353,223 and 350,792 voxels in {SHAPE}, spacing {SPACING_MM} mm."
    print(table.write("metrics", title, cells, notes=notes, raw=raw_samples(rows)).read_text())


if __name__ == "__main__":
    main()
