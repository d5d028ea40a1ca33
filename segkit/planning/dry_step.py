"""Training steps on random pixels in a process of their own: what memory and time a batch takes.

Run by `measure`, as `python -m segkit.planning.dry_step` with the question as JSON on the standard
input; answers with one line of JSON per batch size.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import segkit.torchvision_compat  # noqa: F401

# isort: split
import torch

import segkit.adapters as adapters
from segkit.errors import InputError
from segkit.losses import DiceBCE, DiceCE
from segkit.models.build import BUILDERS
from segkit.models.segmenter import Segmenter, upsample
from segkit.typing import Prompts

ADAPTERS = {"dilated": "DepthwiseDilated", "highfreq": "HighFrequency", "none": "Adapter"}
_ROUNDS = 3  # of a simulated user, as configs/prompt has them
_TIMEOUT_S = 600
_REPEATS = 3
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be trained: `arguments` are those of the adapter.

    `classes` 0 means prompts, for `objects` of each image.
    """

    backbone: str
    adapter: str
    arguments: dict[str, Any]
    classes: int
    size: int
    device: str = "cpu"
    threads: int = 1
    objects: int = 4


@dataclass(frozen=True, slots=True)
class DryStep:
    """One training step with `batch` images: peak memory of the process (of the GPU) and time."""

    batch: int
    peak_mib: float
    seconds: float


def measure(question: Question, batches: Sequence[int], limit_mib: float) -> list[DryStep]:
    """Take steps with growing batches until one passes `limit_mib`, or would by extrapolation.

    Raises:
        InputError: Not even the first batch could be taken.
    """
    text = json.dumps({**asdict(question), "batches": list(batches), "limit_mib": limit_mib})
    done = subprocess.run(
        [sys.executable, "-m", "segkit.planning.dry_step"],
        input=text,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    steps = [DryStep(**json.loads(line)) for line in done.stdout.splitlines()]
    if not steps:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise InputError(
            f"a training step with {batches[0]} image(s) of {question.size} pixels failed: {last}",
            fix="give more memory, or another --model",
            code="dry_step",
        )
    return steps


def main() -> None:
    """Answer the question on the standard input."""
    told = json.load(sys.stdin)
    batches, limit = told.pop("batches"), told.pop("limit_mib")
    question = Question(**told)
    torch.set_num_threads(question.threads)
    trainee = _Trainee(question)
    taken: list[DryStep] = []
    for batch in batches:
        if taken and _expected(taken, batch) > limit:
            break
        taken.append(trainee.step(batch))
        sys.stdout.write(json.dumps(asdict(taken[-1])) + "\n")
        sys.stdout.flush()


def _expected(taken: Sequence[DryStep], batch: int) -> float:
    """Peak of a larger batch, on the line through the last two; the first one alone says itself."""
    last = taken[-1]
    if len(taken) == 1:
        return last.peak_mib
    slope = (last.peak_mib - taken[-2].peak_mib) / (last.batch - taken[-2].batch)
    return last.peak_mib + slope * (batch - last.batch)


class _Trainee:
    """Model, optimiser and loss of a question."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.device = torch.device(question.device)
        self.segmenter = self._build().to(self.device).train()
        trained = [p for p in self.segmenter.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-6)

    def step(self, batch: int) -> DryStep:
        """Three steps; the fastest one is what a step takes when nothing else runs.

        On a processor that others use too, the time of this process says it, not the clock.
        """
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        seconds = []
        for _ in range(_REPEATS):
            start, busy = time.perf_counter(), time.process_time()
            loss = self._automatic(batch) if self.question.classes else self._prompted(batch)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            seconds.append(time.perf_counter() - start)
            if self.device.type == "cpu":
                busy = (time.process_time() - busy) / torch.get_num_threads()
                seconds[-1] = min(seconds[-1], busy)
        return DryStep(batch, round(_peak_mib(self.device), 1), round(min(seconds), 4))

    def _build(self) -> Segmenter:
        question = self.question
        builder = BUILDERS[question.backbone]
        classes = question.classes or None
        if builder.weights == "none":
            return builder(classes=classes, image_size=question.size)
        kind = getattr(adapters, ADAPTERS[question.adapter])

        def adapter(spec: Any) -> Any:
            return kind(spec, **question.arguments)

        return builder(adapter=adapter, classes=classes, image_size=question.size)

    def _images(self, batch: int) -> torch.Tensor:
        size = self.question.size
        return torch.rand(batch, 3, size, size, device=self.device)

    def _automatic(self, batch: int) -> torch.Tensor:
        size = self.question.size
        logits = self.segmenter(self._images(batch)).logits
        target = torch.randint(
            0, self.question.classes + 1, (batch, size, size), device=self.device
        )
        return DiceCE()(upsample(logits.float(), (size, size)), target)

    def _prompted(self, batch: int) -> torch.Tensor:
        """Several objects per image over several rounds, the later ones with a mask."""
        size, each = self.question.size, self.question.objects
        objects = batch * each
        features = self.segmenter.encode(self._images(batch))
        index = torch.arange(batch, device=self.device).repeat_interleave(each)
        target = (torch.rand(objects, 1, size, size, device=self.device) > 0.5).float()
        masks, total = None, torch.zeros((), device=self.device)
        for number in range(_ROUNDS):
            points = torch.rand(objects, 2 + number, 3, device=self.device) * size
            labels = torch.ones(objects, 2 + number, dtype=torch.int64, device=self.device)
            prompts = Prompts(points, labels, masks, index)
            best = self.segmenter.decode(features, prompts).best().logits
            total = total + DiceBCE()(upsample(best.float(), (size, size)), target)
            masks = best.detach()
        return total


def _peak_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _MIB
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (_MIB if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    main()
