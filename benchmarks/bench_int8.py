"""Row C3 with exported encoders: int8 and float32 in ONNX Runtime, their time, memory and masks.

Run: python -m benchmarks.bench_int8 --keep FOLDER [--data DATA] [--case CASE]
Cases are measured one after the other and kept in FOLDER with the exported graphs, so that the long
ones can be run at different times; the table is written once all are there. Agreement is that of
masks of nano with its real weights, on phantoms and on the data sets of `benchmarks.zero_shot_data`
under DATA; times and memory are those of random weights.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import peers, table
from benchmarks.peaks import peak_mib
from benchmarks.rows import gate
from benchmarks.timing import contest
from benchmarks.zero_shot_data import SETS, Item
from segkit.adapters.base import Adapter
from segkit.backbones.onnx_file import EncoderRecord
from segkit.backbones.onnx_graph import PRECISIONS, Precision, export_graph, quantised
from segkit.backbones.sam import SamBackbone
from segkit.backbones.sam_modules import NANO, VIT_B, SamSizes
from segkit.data.preprocess import SliceView
from segkit.data.volume import Picture
from segkit.models import build
from segkit.models.onnx_encoder import OnnxBackbone, has_int8_products
from segkit.predictors.agreement import Example, compare, phantom_examples
from segkit.predictors.base import default_input
from segkit.predictors.exported import LEAST_IOU
from segkit.typing import Grid

SIZES: dict[str, tuple[SamSizes, int, int]] = {
    "nano": (NANO, 256, 15),
    "vit_b": (VIT_B, 1024, 2),
}
"""Sizes, side of the image in pixels, rounds of the contest."""
PLAIN = ("polyps", "heads", "nuclei", "vessels")
PICTURES, PHANTOMS = 100, 64
LIMIT = 0.05
"""Relative error of int8 features above which no time is compared; masks are gated elsewhere."""
TARGETS = {"float32": None, "int8": 0.45}
Row = dict[str, object]
Call = Callable[[], torch.Tensor]


class Contenders:
    """One image and the encoders it goes through, all with the same random weights."""

    def __init__(self, name: str, folder: Path) -> None:
        self.sizes, self.side, _ = SIZES[name]
        self.folder = folder
        self.sam = peers.official_sam(self.sizes)
        self.backbone = SamBackbone(self.sam.image_encoder, self.sizes, Adapter).eval()
        generator = torch.Generator().manual_seed(0)
        self.image = torch.rand(1, 3, self.side, self.side, generator=generator)
        self.grid = Grid((1, self.side, self.side))

    def graph(self, precision: Precision) -> Path:
        """The exported graph, made if it is not kept."""
        path = self.folder / f"{self.sizes.name}-{self.side}.{precision}.onnx"
        if path.exists():
            return path
        if precision == "int8":
            return quantised(self.graph("float32")).replace(path)
        path.write_bytes(export_graph(self.backbone, self.side, precision))
        return path

    def call(self, way: str) -> Call:
        """What encodes the image: "official", "segkit", "float32" or "int8"."""
        if way == "official":
            return lambda: self.sam.image_encoder(self.backbone.normalise(self.image))
        backbone = self.backbone if way == "segkit" else self._exported(way)
        return lambda: backbone(self.image, self.grid).levels[0]

    def _exported(self, way: str) -> OnnxBackbone:
        precision: Precision = "int8" if way == "int8" else "float32"
        record = EncoderRecord(self.sizes.name, "", precision, self.side, {})
        return OnnxBackbone(self.graph(precision).read_bytes(), self.backbone, record)


WAYS = ("official", "segkit", *PRECISIONS)


@torch.inference_mode()
def times(name: str, folder: Path) -> list[Row]:
    """Processor time of all four, in turns."""
    both = Contenders(name, folder)
    calls = {way: both.call(way) for way in WAYS}
    made: dict[str, torch.Tensor] = {}

    def run(way: str) -> None:
        made[way] = calls[way]()

    found = contest({way: partial(run, way) for way in WAYS}, rounds=SIZES[name][2], warm_up=False)
    errors = {
        way: gate([made["official"]], [made[way]], name=way, limit=LIMIT if way == "int8" else 1e-3)
        for way in WAYS
    }
    least = {way: found[way].least_ms / 1e3 for way in WAYS}
    return [
        {
            "row": f"C3 {way}" if name == "vit_b" and way in PRECISIONS else "",
            "case": f"{both.sizes.name}, {both.side} x {both.side}",
            "what": "time",
            "unit": "s CPU",
            "encoder": way,
            "figure": least[way],
            "ratio to official": least[way] / least["official"],
            "ratio to segkit": least[way] / least["segkit"],
            "target": _target(name, way),
            "met": _met(name, way, least),
            "relative error": f"{errors[way]:.0e}",
            "samples": list(found[way].samples_ms),
        }
        for way in WAYS
    ]


def _target(name: str, way: str) -> str:
    bound = TARGETS.get(way) if name == "vit_b" else None
    return "" if bound is None else f"<= {bound} official (with VNNI)"


def _met(name: str, way: str, least: dict[str, float]) -> str:
    bound = TARGETS.get(way) if name == "vit_b" else None
    if bound is None:
        return ""
    return "yes" if least[way] / least["official"] <= bound else "no"


@torch.inference_mode()
def memory(name: str, folder: Path, way: Precision) -> list[Row]:
    """Peak of one call over what was there before, in a process of its own; size of the file."""
    both = Contenders(name, folder)
    command = [sys.executable, "-m", "benchmarks.bench_int8", "--keep", str(folder)]
    run = subprocess.run(
        [*command, "--peak", name, way], check=True, capture_output=True, text=True
    )
    size = both.graph(way).stat().st_size
    base: Row = {
        "case": f"{both.sizes.name}, {both.side} x {both.side}", "encoder": way, "unit": "MiB"
    }  # fmt: skip
    peak = json.loads(run.stdout.splitlines()[-1])
    return [
        {**base, "what": "peak of a call over what was held", "figure": peak},
        {**base, "what": "file", "figure": size / 2**20},
    ]


@torch.inference_mode()
def agreement(name: str, data: Path | None, folder: Path) -> list[Row]:
    """IoU of masks of nano in int8 with those in float32, by box and by click."""
    segmenter = build.nano().eval()
    path = folder / "nano-real.int8.onnx"
    if not path.exists():
        path.write_bytes(export_graph(segmenter.backbone, 256, "int8"))
    record = EncoderRecord("nano", "", "int8", 256, {})
    exported = OnnxBackbone(path.read_bytes(), segmenter.backbone, record)
    if name == "phantoms":
        examples = phantom_examples(256, PHANTOMS)
    elif data is not None:
        examples = [_example(item) for item in SETS[name](data, PICTURES)]
    else:
        raise SystemExit(f"{name} is a real data set: name its folder with --data")
    found = compare(segmenter, exported, examples, data=name)
    base: Row = {
        "case": f"nano on {name}", "encoder": "int8", "unit": "IoU with float",
        "note": f"{found.masks} masks of {found.pictures} objects or pictures",
    }  # fmt: skip
    is_met = "yes" if found.mean_iou >= LEAST_IOU else "no"
    return [
        {**base, "what": "mean", "figure": found.mean_iou, "target": f">= {LEAST_IOU}",
         "met": is_met},
        {**base, "what": "least", "figure": found.least_iou},
        {**base, "what": "share below 0.9", "figure": found.share_below_90, "unit": ""},
    ]  # fmt: skip


def _example(item: Item) -> Example:
    """A picture and its object as nano sees them."""
    source = Picture(item.image)
    view = SliceView(source, default_input(source, 256))
    mask = np.ascontiguousarray(view.label(item.mask, 0))
    return Example(torch.from_numpy(view.image(0)), torch.from_numpy(mask)[None])


def main() -> None:
    """Measure what is not kept, and write `results/int8.*` once all is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--data", type=Path, help="folder of the real data sets")
    parser.add_argument("--case", help="only this one")
    parser.add_argument("--export", action="store_true", help="only make the graphs")
    parser.add_argument("--peak", nargs=2, metavar=("SIZES", "WAY"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.keep.mkdir(parents=True, exist_ok=True)
    if args.peak:
        name, way = args.peak
        call = Contenders(name, args.keep).call(way)
        with torch.inference_mode():
            print(peak_mib(call))
        return
    if args.export:
        for name in SIZES:
            Contenders(name, args.keep).graph("int8")
        return
    cases: dict[str, Callable[[], list[Row]]] = {
        f"{name}_times": partial(times, name, args.keep) for name in SIZES
    }
    for name in SIZES:
        for way in PRECISIONS:
            cases[f"{name}_memory_{way}"] = partial(memory, name, args.keep, way)
    for name in ("phantoms", *PLAIN):
        cases[f"agreement_{name}"] = partial(agreement, name, args.data, args.keep)
    for name, case in cases.items():
        path = args.keep / f"{name}.json"
        if args.case in (None, name) and not path.exists():
            path.write_text(json.dumps(case()))
    paths = [args.keep / f"{name}.json" for name in cases]
    if all(path.exists() for path in paths):
        _write([row for path in paths for row in json.loads(path.read_text())])


def _write(rows: list[Row]) -> None:
    raw = {
        f"{row['case']}: {row['encoder']}": row.pop("samples") for row in rows if "samples" in row
    }
    vnni = {True: "has VNNI", False: "has no VNNI", None: "may have VNNI"}[has_int8_products()]
    notes = (
        f"The processor {vnni}, which the target is meant for. Least processor time of interleaved "
        "runs on one thread, all samples in the JSON file. official: segment-anything 1.0, eager; "
        "segkit: the model's own encoder; float32 and int8: exported, in ONNX Runtime. The memory "
        "of the first two is row C4 (`encode.md`). "
        "Random weights but for the masks of nano; IoU compares masks for the same prompt."
    )
    columns = ("row", "case", "what", "encoder", "figure", "unit", "ratio to official",
               "ratio to segkit", "target", "met", "relative error", "note")  # fmt: skip
    cells = [{key: row.get(key) for key in columns} for row in rows]
    title = "Exported encoders on the CPU"
    print(table.write("int8", title, cells, notes=notes, raw=raw).read_text())


if __name__ == "__main__":
    main()
