"""Rows C1, C2, C12: a click on an encoded image, one by one and many at once, ViT-B at 1024.

Run: python -m benchmarks.bench_click
The embedding is random, as are the weights: what a click costs does not depend on them. The peer is
the official `SamPredictor`, whose embedding is set by hand to the same one.
"""

import numpy as np
import torch

from benchmarks import peers, table
from benchmarks.rows import Row, gate, raw_samples
from benchmarks.timing import contest
from segkit.backbones.sam import SamBackbone
from segkit.backbones.sam_modules import VIT_B
from segkit.decoders.mask import MaskDecoder
from segkit.models.segmenter import Segmenter
from segkit.predictors.image import ImagePredictor
from segkit.prompts.encoder import SamPromptEncoder
from segkit.typing import Features, Grid, Prompts

SIDE, MANY = 1024, 8
POINTS, LABELS = np.array([[500.0, 300.0], [620.0, 410.0]]), np.array([1, 0])


def pair() -> tuple[object, ImagePredictor, Segmenter, Features]:
    """Official predictor and ours on the same modules, both with the same image encoded."""
    from segment_anything import SamPredictor

    sam = peers.official_sam(VIT_B)
    official = SamPredictor(sam)
    maps = torch.randn(1, 256, 64, 64, generator=torch.Generator().manual_seed(1))
    official.features, official.is_image_set = maps, True
    official.original_size = official.input_size = (SIDE, SIDE)

    from segkit.adapters.base import Adapter

    backbone = SamBackbone(sam.image_encoder, VIT_B, Adapter)
    segmenter = Segmenter(
        backbone, SamPromptEncoder(sam.prompt_encoder), MaskDecoder(sam.mask_decoder)
    ).eval()
    features = Features((maps,), Grid((1, SIDE, SIDE)))
    # the encoder is not what is measured
    backbone.forward = lambda *_: features  # type: ignore[method-assign]
    predictor = ImagePredictor(segmenter, device="cpu")
    predictor.set_image(np.zeros((SIDE, SIDE, 3), dtype=np.uint8))
    return official, predictor, segmenter, features


@torch.inference_mode()
def clicks(
    official: object, ours: ImagePredictor, segmenter: Segmenter, features: Features, rounds: int
) -> list[Row]:
    """A first click with full-size masks, and a second one of which the preview is shown."""
    return [
        _first(official, ours, rounds),
        _preview(official, segmenter, features, rounds, with_mask=False),
        _preview(official, segmenter, features, rounds, with_mask=True),
        _many(official, segmenter, features),
    ]


def _first(official: object, ours: ImagePredictor, rounds: int) -> Row:
    def theirs() -> tuple[np.ndarray, ...]:
        return official.predict(POINTS[:1], LABELS[:1])  # type: ignore[attr-defined]

    def mine() -> tuple[np.ndarray, ...]:
        return ours.predict(POINTS[:1], LABELS[:1])

    want, got = theirs(), mine()
    error = gate([torch.tensor(want[2])], [torch.tensor(got[2])], name="click")
    assert (want[0] == got[0]).mean() > 0.9999, "full-size masks differ"
    times = contest({"peer": theirs, "segkit": mine}, rounds=rounds)
    return _row("C1", "click, three full-size masks", times, 0.55, error)


def _preview(
    official: object, segmenter: Segmenter, features: Features, rounds: int, *, with_mask: bool
) -> Row:
    low = official.predict(POINTS[:1], LABELS[:1])[2][:1]  # type: ignore[attr-defined]
    marks = np.stack([np.zeros(2), POINTS[:, 1], POINTS[:, 0]], axis=1)
    prompts = Prompts(
        torch.tensor(marks, dtype=torch.float32)[None],
        torch.tensor(LABELS)[None],
        torch.tensor(low)[None] if with_mask else None,
    )
    mask = low if with_mask else None

    def theirs() -> tuple[np.ndarray, ...]:
        return official.predict(POINTS, LABELS, mask_input=mask, multimask_output=False)  # type: ignore[attr-defined]

    def mine() -> torch.Tensor:
        return segmenter.decode(features, prompts).logits

    error = gate([torch.tensor(theirs()[2])[None]], [mine()], name="second click")
    times = contest({"peer": theirs, "segkit": mine}, rounds=rounds)
    note = "ours stops at the 256 x 256 logits, the official call cannot"
    case = f"second click, preview, {'with the mask before' if with_mask else 'points only'}"
    return _row("C2", case, times, 0.35, error, note)


def _many(official: object, segmenter: Segmenter, features: Features) -> Row:
    generator = torch.Generator().manual_seed(2)
    points = torch.rand(MANY, 1, 3, generator=generator) * SIDE
    points[..., 0] = 0
    labels = torch.ones(MANY, 1, dtype=torch.long)
    xy = points[..., [2, 1]].numpy()

    def theirs() -> list[np.ndarray]:
        return [official.predict(one, LABELS[:1])[2] for one in xy]  # type: ignore[attr-defined]

    def mine() -> torch.Tensor:
        batches = [
            segmenter.decode(features, Prompts(p, one), multimask=True).logits
            for p, one in zip(points.split(8), labels.split(8), strict=True)
        ]
        return torch.cat(batches)

    error = gate([torch.tensor(np.stack(theirs()))], [mine()], name="many clicks")
    times = contest({"peer": theirs, "segkit": mine}, rounds=2)
    note = "preview logits of ours, the official loop always draws full-size masks"
    return _row("C12", f"{MANY} clicks on one image", times, 0.5, error, note)


def _row(
    identifier: str, case: str, times: dict, target: float, error: float, note: str = ""
) -> Row:
    ours, peer = times["segkit"], times["peer"]
    return Row(
        identifier, f"ViT-B, {case}", ours.least_ms, peer.least_ms, "ms CPU", target,
        f"{peers.OFFICIAL_SAM} SamPredictor", error, note,
        {"segkit": ours.samples_ms, "peer": peer.samples_ms},
    )  # fmt: skip


def main() -> None:
    """Measure and write `results/click.*`."""
    rows = clicks(*pair(), rounds=9)
    notes = "Least processor time of interleaved runs."
    print(
        table.write(
            "click",
            "Clicks on the CPU",
            [row.cells() for row in rows],
            notes=notes,
            raw=raw_samples(rows),
        ).read_text()
    )


if __name__ == "__main__":
    main()
