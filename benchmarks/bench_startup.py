"""Rows C10 and C11: what an adapter file weighs, how fast it loads, and what an import costs.

Run: python -m benchmarks.bench_startup
Every figure comes from fresh processes. The peer of the adapter file is the whole model, as the
authors' training loops save it (`torch.save(model.state_dict())`).
"""

import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from torch import nn

from benchmarks import table
from benchmarks.rows import Row, raw_samples
from benchmarks.timing import contest
from segkit.adapters import DepthwiseDilated, HighFrequency
from segkit.backbones.safetensors_file import read_safetensors
from segkit.cli.main import COMMANDS
from segkit.data.preprocess import InputSpec
from segkit.models import ModelInfo, Segmenter, build, save_adapter

IMPORTS = {
    "torch": "import torch",
    "segkit": "import segkit",
    "segkit with torch": "import segkit; segkit.Segmenter",
    "segkit.models.build": "import segkit.models.build",
    "reading": "import segkit; segkit.load",
    **{name: f"from segkit.cli.main import main; main(['{name}', '--help'])" for name in COMMANDS},
}
PEER = "import monai.transforms"
ROUNDS = 3


def imports() -> list[Row]:
    """Processor time of importing, in fresh processes in turns."""
    samples: dict[str, list[float]] = {name: [] for name in (*IMPORTS, "monai")}
    for _ in range(ROUNDS):
        for name, words in {**IMPORTS, "monai": PEER}.items():
            samples[name].append(_seconds(words))
    peer, limits = min(samples["monai"]), {"segkit": 0.5, "segkit with torch": 2.0}
    rows = []
    for name in IMPORTS:
        spent = min(samples[name])
        raw = {"segkit": samples[name], "peer": samples["monai"]}
        what = f"`segkit {name} --help`" if name in COMMANDS else f"`{IMPORTS[name]}`"
        rows.append(Row("C11", what, spent, peer, "s CPU", None, f"`{PEER}`",
                        raw=raw, limit=limits.get(name)))  # fmt: skip
    return rows


def _seconds(words: str) -> float:
    code = f"import time; s = time.process_time(); {words}; print(); print(time.process_time() - s)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(run.stdout.split()[-1])


def dd_sam2() -> tuple[Segmenter, nn.Module]:
    """DD-SAM2's default, six blocks of SAM 2.1 tiny, and the whole tracker its authors save."""
    adapter = partial(DepthwiseDilated, blocks=6, compat="authors")
    tracker = build.sam2_tiny.tracker(checkpoint="random", adapter=adapter)
    return tracker.segmenter, tracker


def sam_adapter() -> tuple[Segmenter, nn.Module]:
    """SAM-Adapter on ViT-B, and the whole model its authors save."""
    model = build.sam_vit_b(checkpoint="random", adapter=partial(HighFrequency, compat="authors"))
    return model, model


METHODS = {
    "DD-SAM2, SAM 2.1 T": (dd_sam2, torch.float32),
    "DD-SAM2, SAM 2.1 T, file in bfloat16": (dd_sam2, torch.bfloat16),
    "SAM-Adapter, ViT-B": (sam_adapter, torch.float32),
}
"""Methods with the precision of the adapter file; the decoder is trained in all of them."""


def files(folder: Path, name: str) -> list[Row]:
    """Size and loading time of an adapter file, and of the state of the whole model."""
    make, dtype = METHODS[name]
    model, whole = make()
    ours, theirs = folder / "adapter.safetensors", folder / "model.pt"
    info = ModelInfo.of(model, labels={1: "object"}, input=InputSpec())
    save_adapter(ours, model, info, dtype=dtype)
    torch.save(whole.state_dict(), theirs)

    def read_all() -> None:
        whole.load_state_dict(torch.load(theirs, weights_only=True))

    def read_ours() -> None:
        with ours.open("rb") as file:
            model.load_trainable_state(read_safetensors(file, ours)[0])

    times = contest({"segkit": read_ours, "peer": read_all}, rounds=5)
    sizes = [path.stat().st_size / 2**20 for path in (ours, theirs)]
    parts = sum(one.numel() for one in model.trainable_state().values()) / 1e6
    frozen = sum(one.numel() for one in whole.parameters()) / 1e6 - parts
    note = f"{parts:.2f} M trained parameters, the mask decoder among them, {frozen:.1f} M frozen"
    return [
        Row("C10", f"{name}: bytes", sizes[0], sizes[1], "MiB", 1 / 15,
            "state of the whole model", note=note),
        Row("C10", f"{name}: read into the model", times["segkit"].least_ms,
            times["peer"].least_ms, "ms CPU", 0.1, "state of the whole model",
            raw={way: times[way].samples_ms for way in times}),
    ]  # fmt: skip


def main() -> None:
    """Measure and write `results/startup.*`."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for name in METHODS for row in files(Path(folder), name)] + imports()
    notes = f"Least of {ROUNDS} or more runs. The whole took {time.perf_counter() - started:.0f} s."
    cells = [row.cells() for row in rows]
    title = "Files and imports"
    print(table.write("startup", title, cells, notes=notes, raw=raw_samples(rows)).read_text())


if __name__ == "__main__":
    main()
