"""Video on the CPU: what a session keeps, what it needs, and the official predictor beside it.

Run: PYTHONPATH=ORACLE python -m benchmarks.bench_video (see tools/parity/sam2_video.py for ORACLE;
without it the official rows read "not run"). Each case runs in a process of its own, with random
weights: none of the figures depends on them. `--only CASE` runs one and prints it as JSON;
`--cases FOLDER` keeps what is done, so that the long ones can be run at different times.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from benchmarks import table
from segkit.backbones.sam2_modules import SAM2_TEST
from segkit.data.video_writer import OverlayWriter
from segkit.data.volume import Picture
from segkit.memory import MemoryBank
from segkit.models import build
from segkit.models.segmenter import upsample
from segkit.models.tracker import ObjectPrompt, Tracker
from segkit.predictors.video import VideoPredictor

MB = 1e6
LARGE, CLIP, CT_SLICES = 1024, 500, 200
Row = dict[str, object]


def _rss() -> float:
    return psutil.Process().memory_info().rss / MB


def _disk(step: int, size: int) -> np.ndarray:
    """A colour frame with a disk that wanders."""
    rows, columns = np.mgrid[:size, :size] / size
    x, y = 0.5 + 0.3 * np.cos(step / 40), 0.5 + 0.3 * np.sin(step / 31)
    inside = (rows - y) ** 2 + (columns - x) ** 2 < 0.02
    return np.repeat(np.where(inside, 210, 60).astype(np.uint8)[..., None], 3, axis=2)


def growth(frames: int) -> list[Row]:
    """Resident memory of a live session between a tenth of its frames and the last."""
    predictor = VideoPredictor(build.sam2_test.tracker(), device="cpu")
    live = predictor.open(None)
    live.push(_disk(0, 64))
    live.add_points([(32, 51)], [1])
    seen: dict[int, float] = {}
    for step in range(1, frames + 1):
        live.push(_disk(step, 64))
        if step in (frames // 10, frames):
            seen[step] = _rss()
    kept = live.track.n_bytes / len(live.track)
    first, last = seen.values()
    return [
        {"row": f"live session, resident growth from frame {frames // 10:,} to {frames:,}",
         "segkit": f"{last - first:.1f} MB", "target": "<= 64 MB"},
        {"row": "its memory bank", "segkit": f"{live.memory_bytes / MB:.3f} MB", "target": ""},
        {"row": "its masks and pointers per frame and object, 64 x 64",
         "segkit": f"{kept / 1e3:.2f} kB", "target": "<= 16 kB"},
    ]  # fmt: skip


def kept(frames: int) -> list[Row]:
    """Bytes per frame and object of what is kept of frames at full size."""
    from segkit.predictors.video_masks import ObjectMask

    pointer = np.zeros(256, np.float32)
    masks = [_disk(step, LARGE)[..., 0] > 128 for step in range(frames)]
    rough = np.random.default_rng(0).random((LARGE, LARGE)) < 0.02
    smooth = [ObjectMask.of(mask, 1.0, pointer).n_bytes for mask in masks]
    ragged = ObjectMask.of(masks[0] ^ rough, 1.0, pointer).n_bytes
    return [
        {"row": f"kept per frame and object, a disk at {LARGE} x {LARGE}, 256-wide pointer",
         "segkit": f"{np.mean(smooth) / 1e3:.2f} kB", "official": "803 kB (state row below)",
         "target": "<= 16 kB"},
        {"row": "the same with 2 % of all pixels flipped, which no model does",
         "segkit": f"{ragged / 1e3:.1f} kB", "target": ""},
    ]  # fmt: skip


def clip(frames: int) -> list[Row]:
    """Peak resident memory over the model of a clip read from a file; time to the first mask."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        with OverlayWriter(path) as writer:
            for step in range(CLIP):
                writer.write(Picture(_disk(step, LARGE)), {}, step / 25)
        predictor = VideoPredictor(build.sam2_test.tracker(image_size=LARGE), device="cpu")
        # the first pass of each part allocates what the second finds
        predictor.open(np.stack([_disk(0, LARGE)])).add_points([(512, 819)], [1])
        before = _rss()
        start = time.process_time()
        session = predictor.open(path)
        session.add_points([(512, 819)], [1])
        first_s = time.process_time() - start
        encode_s = min(_cpu(lambda: _encode(predictor.tracker)) for _ in range(3))
        peaks: list[float] = []
        for found in session.propagate(count=frames):
            peaks.append(_rss())
            if found.frame + 1 == frames:
                break
        half = max(peaks[: frames // 2]) - before
    peak = max(peaks) - before
    return [
        {"row": f"{frames} of {CLIP} frames of a {LARGE} x {LARGE} MP4, peak over the model",
         "segkit": f"{peak:.0f} MB", "peak_mb": peak,
         "target": "<= 1/50 of the official one at 500 frames"},
        {"row": f"the same up to frame {frames // 2}", "segkit": f"{half:.0f} MB", "target": ""},
        {"row": f"first mask of that file ({session.source.count or 'unknown'} frames known)",
         "segkit": f"{first_s:.2f} s CPU, {encode_s:.2f} s of it one encoding",
         "first_s": max(first_s - encode_s, 0.0), "target": "without reading the whole file"},
    ]  # fmt: skip


def volume(slices: int) -> list[Row]:
    """Peak resident memory over the model of a CT volume in a file, followed through its slices."""
    shape = (CT_SLICES, 512, 512)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ct.nii"
        _write_ct(path, shape)
        predictor = VideoPredictor(build.sam2_test.tracker(image_size=LARGE), device="cpu")
        predictor.open(np.stack([_disk(0, LARGE)])).add_points([(512, 819)], [1])
        before = _rss()
        session = predictor.open(path, axis=0)
        opened = _rss() - before
        session.add_points([(256, 409)], [1])
        peak = max(_rss() for _ in session.propagate(count=slices)) - before
    size = np.prod(shape) * 2 / MB
    return [
        {"row": f"{slices} of {CT_SLICES} slices of a 512 x 512 CT, input {LARGE}, peak over the "
                "model, without the voxels",
         "segkit": f"{peak - size:.0f} MB", "ct_mb": peak - size, "target": "<= 130 MB"},
        {"row": f"the same with the voxels ({size:.0f} MB as int16)", "segkit": f"{peak:.0f} MB",
         "target": ""},
        {"row": "the same, opened and nothing marked", "segkit": f"{opened:.0f} MB", "target": ""},
    ]  # fmt: skip


def _write_ct(path: Path, shape: tuple[int, int, int]) -> None:
    """A bright disk in grey, one slice at a time."""
    import nibabel

    header = nibabel.Nifti1Header()
    header.set_data_shape(shape[::-1])
    header.set_data_dtype(np.int16)
    header.set_zooms((0.7, 0.7, 2.5))
    header.set_sform(np.diag([0.7, 0.7, 2.5, 1.0]), code=1)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    with path.open("wb") as file:
        file.write(header.binaryblock.ljust(352, b"\0"))
        for step in range(shape[0]):
            file.write(_disk(step, shape[1])[..., 0].astype(np.int16).tobytes())


def _official_small(size: int) -> Any:
    """Official predictor with a small trunk and one memory layer; its state is of full width."""
    from sam2.build_sam import build_sam2_video_predictor

    extra = {
        "image_size": size, "image_encoder.trunk.embed_dim": 16,
        "image_encoder.trunk.stages": "[1,1,2,1]", "image_encoder.trunk.global_att_blocks": "[3]",
        "image_encoder.neck.backbone_channel_list": "[128,64,32,16]",
        "memory_attention.num_layers": 1,
    }  # fmt: skip
    predictor = build_sam2_video_predictor(
        "configs/sam2.1/sam2.1_hiera_t.yaml", None, device="cpu",
        hydra_overrides_extra=[f"++model.{key}={value}" for key, value in extra.items()],
    )  # fmt: skip
    predictor.fill_hole_area = 0
    return predictor


def official_clip(frames: int) -> list[Row]:
    """Slopes of the official predictor: frames it loads, and state it keeps per frame."""
    from PIL import Image

    predictor = _official_small(LARGE)
    with tempfile.TemporaryDirectory() as folder:
        for step in range(4 * frames):
            Image.fromarray(_disk(step, LARGE)).save(Path(folder) / f"{step:05d}.jpg")
        before, start = _rss(), time.process_time()
        state = predictor.init_state(folder)
        seconds = (time.process_time() - start) / (4 * frames)
        images = state["images"]
        load = images.numel() * images.element_size() / len(images) / MB
        resident = _rss() - before
        predictor.add_new_points_or_box(state, 0, 1, points=[[819, 512]], labels=[1])
        sizes = []
        for index, _ids, _masks in predictor.propagate_in_video(state):
            sizes.append(_state_bytes(state))
            if index + 1 == frames:
                break
    slope = (sizes[-1] - sizes[1]) / (len(sizes) - 2) / MB
    total = CLIP * (load + slope)
    return [
        {"row": f"official: frames in memory, slope over {4 * frames} frames",
         "official": f"{load:.2f} MB per frame (resident {resident:.0f} MB)", "target": ""},
        {"row": f"official: state per frame and object, slope over {frames} frames",
         "official": f"{slope * 1e3:.0f} kB", "target": ""},
        {"row": f"official: both at {CLIP} frames, extrapolated from the slopes",
         "official": f"{total:.0f} MB", "total_mb": total, "target": ""},
        {"row": f"official: reading {CLIP} frames before the first mask, extrapolated",
         "official": f"{CLIP * seconds:.1f} s CPU", "read_s": CLIP * seconds, "target": ""},
        {"row": f"official: both at {CT_SLICES} slices, extrapolated from the slopes",
         "official": f"{CT_SLICES * (load + slope):.0f} MB",
         "ct_total_mb": CT_SLICES * (load + slope), "target": ""},
    ]  # fmt: skip


def _state_bytes(state: dict[str, Any]) -> int:
    total = 0
    for outputs in state["output_dict_per_obj"].values():
        for kind in ("cond_frame_outputs", "non_cond_frame_outputs"):
            for out in outputs[kind].values():
                for name in ("maskmem_features", "pred_masks", "obj_ptr"):
                    if out[name] is not None:
                        total += out[name].numel() * out[name].element_size()
    return total


def objects(frames: int, size: int = 512, count: int = 10) -> list[Row]:
    """CPU time per frame with ten objects, tiny, interleaved with the official predictor."""
    from tools.parity.sam2_video import _pictures, official, ours
    from tools.parity.sam2_video import frames as pictures

    predictor = official("2.1", size=size)
    with tempfile.TemporaryDirectory() as folder:
        tracker = ours("2.1", predictor, Path(folder), size=size)
    images = pictures(16, size)
    rng = np.random.default_rng(0)
    places = [tuple(map(float, rng.uniform(40, size - 40, 2))) for _ in range(count)]
    with _pictures(images):
        state = predictor.init_state("")
    for one, place in enumerate(places):
        predictor.add_new_points_or_box(state, 0, one, points=[place], labels=[1])
    passed = predictor.propagate_in_video(state)
    theirs, mine, bank = [], [], MemoryBank()
    prompts: dict[int, ObjectPrompt] | None = {
        one: ObjectPrompt(torch.tensor([[0.0, y, x]]), torch.tensor([1]))
        for one, (x, y) in enumerate(places)
    }
    gap = 0.0
    for index in range(frames):
        theirs.append(_cpu(lambda: next(passed)))
        start = time.process_time()
        bank, logits = _step(tracker, images[index], prompts, bank)
        mine.append(time.process_time() - start)
        prompts = None
        kind = "cond_frame_outputs" if index == 0 else "non_cond_frame_outputs"
        want = torch.stack(
            [out[kind][index]["pred_masks"][0] for out in state["output_dict_per_obj"].values()]
        )
        gap = max(gap, float((want - logits).abs().max() / want.abs().max()))
    # after seven frames the memory is as full as it gets
    full = slice(min(7, frames - 2), None)
    one, other = min(mine[full]), min(theirs[full])
    return [
        {"row": f"{count} objects, tiny, {size} x {size}, CPU time per frame, least of "
                f"{len(mine[full])}, {torch.get_num_threads()} threads; masks differ by {gap:.0e}",
         "segkit": f"{one:.2f} s", "official": f"{other:.2f} s",
         "ratio": f"{one / other:.2f}", "target": "<= 0.75"},
    ]  # fmt: skip


@torch.inference_mode()
def _encode(tracker: Tracker) -> object:
    return tracker.encode(torch.zeros(1, 3, LARGE, LARGE))


@torch.inference_mode()
def _step(
    tracker: Tracker, image: torch.Tensor, prompts: Any, bank: MemoryBank
) -> tuple[MemoryBank, torch.Tensor]:
    prediction, bank = tracker.step(tracker.encode(image[None]), prompts, bank)
    # the official predictor brings its masks to the size of the frame, too
    upsample(prediction.logits, tuple(image.shape[1:]))
    return bank, prediction.logits


def _cpu(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


CASES: dict[str, tuple[Callable[[int], list[Row]], int, bool]] = {
    "growth": (growth, 10_000, False),
    "kept": (kept, 50, False),
    "clip": (clip, 40, False),
    "volume": (volume, 24, False),
    "official_clip": (official_clip, 8, True),
    "objects": (objects, 12, True),
}
"""Function, number of frames, and whether it needs the official package."""


def _run(case: str, frames: int) -> list[Row]:
    needs_official = CASES[case][2]
    if needs_official and importlib.util.find_spec("sam2") is None:
        return [{"row": case, "official": "not run: the official package is absent"}]
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.bench_video"]
    command += ["--only", case, "--frames", str(frames)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    rows: list[Row] = json.loads(done.stdout.splitlines()[-1])
    return rows


COMPARED = (
    (f"memory over the model at {CLIP} frames (official one extrapolated)", "peak_mb", "total_mb",
     "MB", "<= 1/50"),
    (f"memory over the model and the voxels, {CT_SLICES} CT slices (official one extrapolated)",
     "ct_mb", "ct_total_mb", "MB", "<= 1/20"),
    (f"first mask of {CLIP} frames, without one encoding (official one extrapolated)", "first_s",
     "read_s", "s", "<= 1/20"),
)  # fmt: skip
"""Rows made of two others: name, figures, unit and target."""


def report(rows: Sequence[Row]) -> str:
    """Write `results/video.*`."""
    columns = ("row", "segkit", "official", "ratio", "target")
    figures = {key: float(str(row[key])) for row in rows for key in row if key not in columns}
    shown = list(rows)
    for name, own, other, unit, target in COMPARED:
        if own in figures and other in figures:
            shown.append({
                "row": name, "target": target,
                "segkit": f"{figures[own]:.3g} {unit}", "official": f"{figures[other]:.4g} {unit}",
                "ratio": f"1/{figures[other] / max(figures[own], 1e-3):.0f}",
            })  # fmt: skip
    full = [{key: row.get(key, "") for key in columns} for row in shown]
    notes = (
        "Resident memory is read after each frame. What the first frame of a model leaves behind "
        f"counts as the model's, the position embedding of {LARGE} x {LARGE} pixels among it "
        f"({_embedding_mb():.1f} MB here)."
    )
    return table.write("video", "Video on the CPU", full, notes=notes, raw=figures).read_text()


def _embedding_mb() -> float:
    """Size of the table that the encoder of these models keeps."""
    side = LARGE // 4
    return 4 * SAM2_TEST.embed_dim * side**2 / MB


def main() -> None:
    """Measure and write `results/video.*`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=tuple(CASES))
    parser.add_argument("--frames", type=int)
    parser.add_argument("--cases", type=Path, help="folder: keep each case there, do none twice")
    args = parser.parse_args()
    if args.only:
        run, default, _ = CASES[args.only]
        print(json.dumps(run(args.frames or default)))
        return
    kept: list[Row] = []
    for case in CASES:
        path = None if args.cases is None else args.cases / f"{case}.json"
        done = path is not None and path.exists()
        rows = json.loads(path.read_text()) if path and done else _run(case, CASES[case][1])
        if path and not done:
            path.write_text(json.dumps(rows))
        kept += rows
    print(report(kept))


if __name__ == "__main__":
    main()
