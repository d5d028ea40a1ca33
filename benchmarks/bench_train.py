"""Rows C8 and C9: adapters in a training step and the high-pass image, against the authors' code.

Run: DD_SAM2=... SAM3D_ADAPTER=... SAM_ADAPTER=... python -m benchmarks.bench_train
The variables name checkouts of the released code; rows without one are not run. The floor is the
time of the matrix products alone, which every implementation has to do.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import peers, table
from benchmarks.rows import Row, gate, not_run, raw_samples
from benchmarks.timing import contest
from segkit.adapters.dilated import DilatedBottleneck
from segkit.adapters.spatial import SpatialBottleneck
from segkit.kernels.highpass import high_pass
from tools.parity.harness import copied

PICTURE, VOLUME = (1, 64, 64, 384), (1, 16, 16, 16, 768)
ROUNDS = 15
COMMAND = "{}=CHECKOUT python -m benchmarks.bench_train"


def dilated(root: Path) -> list[Row]:
    """DD-SAM2's module with its residual, at the third stage of Hiera-T at 1024."""
    torch.manual_seed(0)
    theirs = peers.dd_adapter(root)(input_dim=PICTURE[-1])
    ours = DilatedBottleneck(PICTURE[-1], (1, 3), "parallel", starts_at_zero=False)
    copied(list(theirs.parameters()), list(ours.parameters()))
    calls = {"segkit": ours, "peer": lambda x: x + theirs(x)}
    return _rows("dilated adapter", calls, {"segkit": ours, "peer": theirs}, PICTURE, "dd_sam2")


def spatial(root: Path) -> list[Row]:
    """3DSAM-adapter's module at its own width, an eighth of its volume."""
    torch.manual_seed(0)
    dim = VOLUME[-1]
    theirs = peers.spatial_adapter(root)(dim, dim // 2)
    ours = SpatialBottleneck(dim, dim // 2, compat="authors")
    copied(list(theirs.parameters()), list(ours.parameters()))

    def call(x: Tensor) -> Tensor:
        return ours(x.flatten(0, 1), VOLUME[1]).unflatten(0, (-1, VOLUME[1]))

    calls = {"segkit": call, "peer": theirs}
    parts = {"segkit": ours, "peer": theirs}
    return _rows("spatial adapter", calls, parts, VOLUME, "sam3d_adapter")


def _rows(
    case: str,
    calls: dict[str, Callable[[Tensor], Tensor]],
    parts: dict[str, nn.Module],
    shape: tuple[int, ...],
    method: str,
) -> list[Row]:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
    seed = torch.randn(shape, generator=torch.Generator().manual_seed(2))

    def step(way: str) -> list[Tensor]:
        leaves = [x, *parts[way].parameters()]
        made = calls[way](x)
        return [made, *torch.autograd.grad((made * seed).sum(), leaves)]

    error = gate(step("peer"), step("segkit"), name=case)
    times = contest(
        {way: lambda way=way: step(way) for way in calls} | {"floor": _products(shape)},
        rounds=ROUNDS,
    )
    ours, peer, floor = (times[way].least_ms for way in ("segkit", "peer", "floor"))
    size = " x ".join(map(str, shape))
    kept = {way: _kept_mib(calls[way], x, list(parts[way].parameters())) for way in calls}
    note = f"floor {floor:.0f} ms ({floor / peer:.2f} of the peer): matrix products alone"
    return [
        Row(
            "C8", f"{case}, forward + backward, {size}", ours, peer, "ms CPU", 0.6,
            peers.commit(method), error, note, {way: times[way].samples_ms for way in times},
        ),
        Row(
            "C8 memory", f"{case}, kept for the backward pass, {size}", kept["segkit"],
            kept["peer"], "MiB", 0.5, peers.commit(method), error, "input and weights not counted",
        ),
    ]  # fmt: skip


def _products(shape: tuple[int, ...]) -> Callable[[], object]:
    """The six matrix products of two projections: forward, and two each in the backward pass."""
    dim = shape[-1]
    x, hidden = torch.randn(shape).view(-1, dim), torch.randn(shape).view(-1, dim)[:, : dim // 2]
    hidden = hidden.contiguous()
    down, up = torch.randn(dim // 2, dim), torch.randn(dim, dim // 2)

    def run() -> None:
        for wide, narrow, weight in ((x, hidden, down), (x, hidden, up.T)):
            F.linear(wide, weight)
            narrow @ weight
            narrow.T @ wide

    return run


def _kept_mib(call: Callable[[Tensor], Tensor], x: Tensor, weights: Sequence[Tensor]) -> float:
    """Bytes that autograd holds between the passes, each memory once."""
    seen: dict[int, int] = {}

    def pack(one: Tensor) -> Tensor:
        storage = one.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return one

    held: list[Any] = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda one: one):
        held.append(call(x))
    for known in (x, *weights):
        seen.pop(known.untyped_storage().data_ptr(), None)
    return sum(seen.values()) / 2**20


def high_frequencies(root: Path) -> Row:
    """SAM-Adapter's high-pass image of one picture."""
    side, rate = 1024, 0.25
    generator = peers.prompt_generator(root)(
        scale_factor=32, prompt_type="highpass", embed_dim=64, tuning_stage=1234, depth=1,
        input_type="fft", freq_nums=rate, handcrafted_tune=True, embedding_tune=True,
        adaptor="adaptor", img_size=side, patch_size=16,
    )  # fmt: skip
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    half = (int((side * side * rate) ** 0.5 // 2),) * 2
    with torch.inference_mode():
        error = gate([generator.fft(image, rate)], [high_pass(image, half)], name="high-pass")
        times = contest(
            {"segkit": lambda: high_pass(image, half), "peer": lambda: generator.fft(image, rate)},
            rounds=7,
        )
    return Row(
        "C9", f"high-pass image, {side} x {side}", times["segkit"].least_ms,
        times["peer"].least_ms, "ms CPU", 0.5, peers.commit("sam_adapter"), error,
        "nothing again where features are kept (TR5)",
        {way: times[way].samples_ms for way in times},
    )  # fmt: skip


def main() -> None:
    """Measure and write `results/train.*`."""
    rows: list[Row] = []
    cells: list[dict[str, object]] = []
    cases: list[tuple[str, str, Callable[[Path], Any]]] = [
        ("dd_sam2", "C8", dilated),
        ("sam3d_adapter", "C8", spatial),
        ("sam_adapter", "C9", high_frequencies),
    ]
    for method, identifier, case in cases:
        if (root := peers.checkout(method)) is None:
            variable = peers.METHODS[method][0]
            cells.append(not_run(identifier, method, COMMAND.format(variable)))
            continue
        made = case(root)
        found = made if isinstance(made, list) else [made]
        rows += found
        cells += [row.cells() for row in found]
    notes = (
        "Least processor time of interleaved runs; float32. The figures of memory are bytes that "
        "autograd keeps, counted exactly, not a peak."
    )
    title = "Adapters in training on the CPU"
    print(table.write("train", title, cells, notes=notes, raw=raw_samples(rows)).read_text())


if __name__ == "__main__":
    main()
