"""Compare the tracker with the official SAM 2 predictor on the same random weights.

The official package (commit 2b90b9f; PyPI has it as sam2 1.1.0) is an oracle, not a dependency:

    SAM2_BUILD_CUDA=0 pip install --no-deps --target ORACLE sam2==1.1.0 iopath portalocker tqdm
    PYTHONPATH=ORACLE python -m tools.parity.sam2_video --out REPORT.md
"""

import argparse
import json
import platform
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

import segkit.torchvision_compat  # noqa: F401 (makes torchvision importable beside a CPU torch)
from segkit.memory import Capacity, MemoryBank
from segkit.models import build
from segkit.models.tracker import ObjectPrompt, Tracker

SIZE, FRAMES = 128, 20
TOLERANCE = 1e-5  # relative to the largest logit
CONFIGS = {"2.1": "configs/sam2.1/sam2.1_hiera_t.yaml", "2.0": "configs/sam2/sam2_hiera_t.yaml"}
NAMES = {"2.1": "sam2_tiny", "2.0": "sam2_0_tiny"}


@dataclass(frozen=True)
class Mark:
    """One call of a user: object, frame, (x, y) points with labels, or a mask."""

    object: int
    frame: int
    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    mask: torch.Tensor | None = None


@dataclass(frozen=True)
class Case:
    """Calls before the first pass, after it, and the direction of all passes."""

    name: str
    before: tuple[Mark, ...]
    after: tuple[Mark, ...] = ()
    reverse: bool = False
    vanish: float = 0.0  # share of object scores below 0 in a plain run


def _disk(x: float, y: float, radius: float) -> torch.Tensor:
    axis = torch.arange(SIZE) + 0.5
    return (axis[:, None] - y) ** 2 + (axis[None] - x) ** 2 < radius**2


_A = Mark(1, 0, ((30.0, 40.0),), (1,))
_B = Mark(2, 0, ((60.0, 30.0), (100.0, 75.0)), (2, 3))
_C = Mark(3, 0, ((90.0, 100.0), (10.0, 10.0)), (1, 0))
CASES = (
    Case("3 objects on frame 0, one by box", (_A, _B, _C)),
    Case("objects at frames 0, 0, 6, given in advance", (_A, _B, replace(_C, frame=6))),
    Case("object prompted at 0 and 7, another at 0", (_A, _B, replace(_A, frame=7))),
    Case("a mask prompt", (Mark(1, 0, mask=_disk(50, 60, 20)), _B)),
    Case("a second click refines the first", (_A, _B, Mark(1, 0, ((45.0, 50.0),), (0,)))),
    Case("backwards from the last frame", (replace(_A, frame=19), replace(_B, frame=19)),
         reverse=True),
    Case("correction of tracked frame 12, second pass", (_A, _B),
         (Mark(1, 12, ((45.0, 50.0),), (1,)),)),
)  # fmt: skip
VANISHING = tuple(replace(case, name=f"{case.name}, vanishing", vanish=0.3) for case in CASES[:3])


def frames(count: int = FRAMES, size: int = SIZE) -> torch.Tensor:
    """Smooth random pictures that drift, in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 24, 24, generator=generator)
    wide = torch.nn.functional.interpolate(coarse, size=2 * size, mode="bicubic").clamp(0, 1)
    return torch.stack(
        [wide[0, :, 4 * t : 4 * t + size, 3 * t : 3 * t + size] for t in range(count)]
    )


def official(version: str, *, size: int = SIZE, **options: object) -> Any:
    """Official predictor with random weights of useful size."""
    from sam2.build_sam import build_sam2_video_predictor

    extra = [f"++model.image_size={size}", *(f"++model.{k}={v}" for k, v in options.items())]
    for part in ("self_attention", "cross_attention"):
        extra.append(
            f"++model.memory_attention.layer.{part}.feat_sizes=[{size // 16},{size // 16}]"
        )
    torch.manual_seed(0)
    predictor = build_sam2_video_predictor(
        CONFIGS[version], None, device="cpu", hydra_overrides_extra=[*extra]
    )
    randomise(predictor)
    return prepared(predictor)


def prepared(predictor: Any) -> Any:
    """Make the official predictor run in fp32 without its CUDA extension."""
    # it fails where a frame has no past pointer: maps stay bfloat16
    attend = predictor.memory_attention.forward
    predictor.memory_attention.forward = lambda curr, memory, *rest, **named: attend(
        curr, memory.float(), *rest, **named
    )
    predictor.fill_hole_area = 0  # needs a CUDA extension, and is skipped without it
    return predictor


def randomise(module: torch.nn.Module) -> None:
    """Leave no zero tensor and no branch without effect in freshly built modules."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in sorted(module.state_dict().items()):
            if name.endswith("gamma"):
                tensor.fill_(0.5)
            else:
                tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.02)


def ours(version: str, predictor: Any, folder: Path, *, size: int = SIZE) -> Tracker:
    """Our tracker with the weights of the official one, through a file of the official kind."""
    path = folder / "sam2.pt"
    torch.save({"model": predictor.state_dict()}, path)
    tracker = getattr(build, NAMES[version]).tracker(checkpoint=path, image_size=size)
    return tracker.eval()


@contextmanager
def _pictures(images: torch.Tensor) -> Iterator[None]:
    """Make the official predictor open tensors in the place of files."""
    import sam2.sam2_video_predictor as module

    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normal = (images - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
    original = module.load_video_frames
    module.load_video_frames = lambda **_: (normal, *images.shape[2:])
    try:
        yield
    finally:
        module.load_video_frames = original


def run_official(predictor: Any, images: torch.Tensor, case: Case) -> dict[int, torch.Tensor]:
    """Logits at low resolution by frame, [objects rows cols]."""
    predictor.add_all_frames_to_correct_as_cond = True
    with _pictures(images):
        state = predictor.init_state("")
    start = len(images) - 1 if case.reverse else None
    for marks in (case.before, case.after):
        if not marks:
            continue
        for mark in marks:
            if mark.mask is not None:
                predictor.add_new_mask(state, mark.frame, mark.object, mark.mask)
            else:
                predictor.add_new_points_or_box(
                    state, mark.frame, mark.object, points=mark.points, labels=mark.labels,
                    clear_old_points=False,
                )  # fmt: skip
        passed = predictor.propagate_in_video(state, start_frame_idx=start, reverse=case.reverse)
        for _ in passed:
            pass
    found: dict[int, list[torch.Tensor]] = {}
    for outputs in state["output_dict_per_obj"].values():
        for kind in ("cond_frame_outputs", "non_cond_frame_outputs"):
            for frame, out in outputs[kind].items():
                found.setdefault(frame, []).append(out["pred_masks"][0, 0])
    return {frame: torch.stack(masks) for frame, masks in found.items()}


@torch.inference_mode()
def run_ours(
    tracker: Tracker, images: torch.Tensor, case: Case, capacity: Capacity | None = None
) -> dict[int, torch.Tensor]:
    """Logits at low resolution by frame, [objects rows cols]."""
    order = range(len(images) - 1, -1, -1) if case.reverse else range(len(images))
    features = [tracker.encode(image[None]) for image in images]
    bank = MemoryBank(capacity=capacity or Capacity())
    direction = -1 if case.reverse else 1
    found: dict[tuple[int, int], torch.Tensor] = {}
    prompted: dict[tuple[int, int], list[Mark]] = {}
    for marks in (case.before, case.after):
        if not marks:
            continue
        is_first = marks is case.before
        if not is_first:
            # back to the corrected frame, as a session does
            bank = _walk(tracker, features, bank, found, range(marks[0].frame), prompted)
        for mark in marks:
            key = (mark.object, mark.frame)
            prompted.setdefault(key, []).append(mark)
            prompt = prompt_of(prompted[key], found.get(key), sees_memory=not is_first)
            prediction, bank = tracker.interact(
                features[mark.frame], {mark.object: prompt}, bank.at(mark.frame, direction)
            )
            found[key] = prediction.logits[0]
        bank = _walk(tracker, features, bank.forget_recent(), found, order, prompted, direction)
    ids = sorted({key[0] for key in found})
    return {
        frame: torch.stack([found[one, frame][0] for one in ids]) for frame in range(len(images))
    }


def _walk(
    tracker: Tracker,
    features: Sequence[Any],
    bank: MemoryBank,
    found: dict[tuple[int, int], torch.Tensor],
    order: Sequence[int],
    prompted: Mapping[tuple[int, int], object],
    direction: Any = 1,
) -> MemoryBank:
    """Track every object on every frame where it is not prompted."""
    for frame in order:
        bank = bank.at(frame, direction)
        if ids := [one for one in bank.ids if (one, frame) not in prompted]:
            prediction, bank = tracker.track(features[frame], bank, ids)
            found |= {(one, frame): prediction[[one]].logits[0] for one in ids}
    return bank


def prompt_of(
    marks: Sequence[Mark], previous: torch.Tensor | None, *, sees_memory: bool
) -> ObjectPrompt:
    """All marks of an object on a frame, as our tracker takes them."""
    if marks[-1].mask is not None:
        return ObjectPrompt(mask=marks[-1].mask, sees_memory=sees_memory)
    points = [(0.0, y, x) for mark in marks for x, y in mark.points]
    labels = [label for mark in marks for label in mark.labels]
    return ObjectPrompt(
        torch.tensor(points), torch.tensor(labels), previous=previous, sees_memory=sees_memory
    )


@dataclass(frozen=True)
class Row:
    """Result of one case."""

    version: str
    case: str
    difference: float
    largest: float
    pixels: int
    absent: float

    @property
    def is_good(self) -> bool:
        """Within the tolerance."""
        return self.difference <= TOLERANCE * self.largest


def compare(version: str, folder: Path, cases: Sequence[Case]) -> Iterator[Row]:
    """Run the cases of one version."""
    predictor = official(version)
    tracker = ours(version, predictor, folder)
    images = frames()
    last = (predictor.sam_mask_decoder.pred_obj_score_head.layers[-1],
            tracker.decoder.module.pred_obj_score_head.layers[-1])  # fmt: skip
    with torch.inference_mode():
        scores = _scores(tracker, images)
    for case in cases:
        shift = float(scores.quantile(case.vanish)) if case.vanish else float(scores.min()) - 5.0
        for layer in last:
            layer.bias.data.sub_(shift)
        want, got = run_official(predictor, images, case), run_ours(tracker, images, case)
        for layer in last:
            layer.bias.data.add_(shift)
        a = torch.stack([want[t] for t in sorted(want)])
        b = torch.stack([got[t] for t in sorted(want)])
        seen = a > -1000
        assert (seen == (b > -1000)).all(), f"{case.name}: visible in different frames"
        yield Row(
            version, case.name, _gap(a, b), float(a[seen].abs().amax()) if seen.any() else 0.0,
            int(((a > 0) != (b > 0)).sum()), float(1 - seen[..., 0, 0].float().mean()),
        )  # fmt: skip


def _scores(tracker: Tracker, images: torch.Tensor) -> torch.Tensor:
    """Object scores of a plain run, to place the threshold among them."""
    bank, found = MemoryBank(), []
    prompts: dict[int, ObjectPrompt] | None = {
        mark.object: prompt_of([mark], None, sees_memory=False) for mark in CASES[0].before
    }
    for image in images:
        prediction, bank = tracker.step(tracker.encode(image[None]), prompts, bank)
        found.append(prediction.score)
        prompts = None
    return torch.cat(found)


def module_rows(folder: Path) -> list[tuple[str, float, float]]:
    """Largest difference, and largest value, of memory attention and memory encoder alone."""
    predictor = official("2.1")
    tracker = ours("2.1", predictor, folder)
    generator = torch.Generator().manual_seed(2)
    cells = SIZE // 16
    bank = MemoryBank(rounds=False).add([0])
    image = torch.randn(1, 256, cells, cells, generator=generator)
    for frame in range(4):
        maps, pointer = torch.randn(1, cells**2, 64, generator=generator), torch.randn(1, 256)
        bank = bank.at(frame).remember([0], maps, pointer, is_prompted=frame == 0)
    index = torch.zeros(1, dtype=torch.long)
    with torch.inference_mode():
        recall = tracker.memory.recall(bank.at(4).recollect([0]), (cells, cells), index.device)
        got = tracker.memory.memory_attention(image, recall, index)
        position = predictor.image_encoder.neck.position_encoding(image)
        want = predictor.memory_attention(
            image.flatten(2).permute(2, 0, 1), recall.tokens.transpose(0, 1),
            position.flatten(2).permute(2, 0, 1), recall.codes.transpose(0, 1),
            num_obj_ptr_tokens=recall.tokens.shape[1] - 4 * cells**2,
        )  # fmt: skip
        want = want.permute(1, 2, 0).view(got.shape)
        masks = torch.rand(1, 1, SIZE, SIZE, generator=generator)
        encoded = tracker.memory.encode(image, masks, None, index)
        expected = predictor.memory_encoder(image, masks * 20 - 10, skip_mask_sigmoid=True)
        expected = expected["vision_features"].flatten(2).transpose(1, 2)
    return [
        ("memory attention, 4 maps and 4 pointers", _gap(got, want), float(want.abs().max())),
        ("memory encoder", _gap(encoded, expected), float(expected.abs().max())),
    ]


def _gap(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


def table(rows: Sequence[Row], modules: Sequence[tuple[str, float, float]]) -> str:
    """Markdown report."""
    lines = [
        "# Tracker against the official SAM 2 predictor",
        "",
        f"Written by `python -m tools.parity.sam2_video`. Random weights, tiny, {SIZE} x {SIZE}, "
        f"{FRAMES} frames, fp32, torch {torch.__version__}, {platform.machine()} CPU. Logits at "
        "low resolution; memory maps in bfloat16 on both sides. The official predictor runs with "
        "`add_all_frames_to_correct_as_cond=True`; by default it drops corrections. "
        f"Tolerance: {TOLERANCE:g} of the largest logit.",
        "",
        "| version | case | largest difference | largest logit | pixels changed | absent | |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.version} | {r.case} | {r.difference:.1e} | {r.largest:.2f} | {r.pixels} | "
        f"{r.absent:.0%} | {'ok' if r.is_good else 'above'} |"
        for r in rows
    ]
    lines += ["", "| module | largest difference | largest value |", "|---|---|---|"]
    lines += [f"| {name} | {gap:.1e} | {top:.2f} |" for name, gap, top in modules]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report; exit code 1 if a case is above the tolerance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs"), help="folder for a weight file")
    parser.add_argument("--go-on", action="store_true", help="keep the rows that --out has")
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    args.work.mkdir(exist_ok=True)
    # minutes on a busy machine: what is done is kept
    kept = args.out.with_suffix(".json")
    done = json.loads(kept.read_text()) if args.go_on and kept.exists() else {}
    modules = done.get("modules") or module_rows(args.work)
    rows = [Row(**row) for row in done.get("rows", ())]
    for version, cases in (("2.1", (*CASES, *VANISHING)), ("2.0", CASES)):
        known = {row.case for row in rows if row.version == version}
        rest = [case for case in cases if case.name not in known]
        for row in compare(version, args.work, rest) if rest else ():
            rows.append(row)
            args.out.write_text(table(rows, modules))
            kept.write_text(json.dumps({"modules": modules, "rows": [asdict(r) for r in rows]}))
    print(args.out.read_text())
    return 0 if all(row.is_good for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
