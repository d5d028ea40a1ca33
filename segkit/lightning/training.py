"""Train a module into a run folder; the whole of `segkit train` below the command line."""

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, Timer
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from segkit.data.zoom import Zoom
from segkit.errors import InputError, SegkitError
from segkit.lightning.base import SegmentationModule
from segkit.lightning.checkpoints import AtomicCheckpointIO, read_checkpoint
from segkit.lightning.data import SegmentationData
from segkit.lightning.environment import environment
from segkit.lightning.interactive import InteractiveModule
from segkit.lightning.keeper import RunKeeper
from segkit.lightning.metrics_csv import MetricsCsv
from segkit.lightning.progress import progress
from segkit.lightning.run_folder import RunFolder
from segkit.lightning.seeding import is_first_process
from segkit.models.files import save_adapter
from segkit.models.info import ModelInfo

_log = logging.getLogger(__name__)

DEFAULT_TRAINER = partial(Trainer, max_epochs=10)

_NOISE = (
    r"Found \d+ module\(s\) in eval mode",  # the frozen encoder, on purpose
    r"The '\w+' does not have many workers",
    r"The number of training batches \(\d+\) is smaller than the logging interval",
    r"You're resuming from a checkpoint that ended before the epoch ended",  # the sampler can
    r"`training_step` returned `None`",  # a skipped step is logged by FiniteGuard
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"Detected call of `lr_scheduler.step\(\)` before `optimizer.step\(\)`",  # first step skipped
    r"Checkpoint directory .* exists and is not empty",
    r"`fit\(\)` .*weights_only",
)


class OutOfMemoryError(SegkitError):
    """The device has too little memory; the last saved state is intact."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"{folder}: the device ran out of memory; halve data.batch_size and double "
            "trainer.accumulate_grad_batches, or set backbone.checkpointing=true or a smaller "
            "data.size, then resume with ckpt_path=last allow_changes=true"
        )


@dataclass(frozen=True, slots=True)
class FitResult:
    """What a training achieved; `metrics` are those of the best validation."""

    run: str
    metrics: Mapping[str, float]
    steps: int
    seconds: float
    peak_memory_mib: float


def fit(
    module: SegmentationModule,
    data: SegmentationData,
    run: str | Path,
    *,
    trainer: Callable[..., Trainer] = DEFAULT_TRAINER,
    keeper: Callable[..., RunKeeper] = RunKeeper,
    callbacks: Sequence[Callback] = (),
    config: Mapping[str, Any] | None = None,
    resume: str | Path | None = None,
    allow_changes: bool = False,
) -> FitResult:
    """Train and fill the run folder; the module ends with the best weights.

    `trainer` and `keeper` are classes or partials: folder, loggers and callbacks are added here.
    `config` is written to `config.yaml`. `resume` is "last", "best" or a checkpoint path; then
    `config` and data must equal those of the run, unless `allow_changes`.

    Raises:
        InputError: The folder is in use, not writable, holds another run, or settings changed;
            module and data differ in how they zoom; or no file could describe the model.
        InterruptedRunError: A signal asked to stop; the state was saved.
        DivergedError: Too many steps without a finite loss.
        OutOfMemoryError: The device has too little memory.
    """
    is_owner = is_first_process()
    _check_zoom(module, data.input.zoom)
    _description(module, data)  # what cannot be described is refused now, not after an epoch
    with RunFolder(run, is_owner=is_owner) as folder, warnings.catch_warnings():
        for message in _NOISE:
            warnings.filterwarnings("ignore", message=message)
        path = None if resume is None else folder.resume_from(resume)
        position = None if path is None else int(read_checkpoint(path)["global_step"])
        if is_owner:
            _record(folder, module, data, config or {}, position, allow_changes)
        module.guard.folder = folder.path
        keep = keeper(folder.checkpoints)
        keep.on_best = partial(_write_adapter, folder.adapter, module, data)
        run_trainer = trainer(
            callbacks=[progress(), *callbacks, keep],
            logger=_loggers(folder.path, position),
            plugins=[AtomicCheckpointIO()],
            default_root_dir=folder.path,
            enable_progress_bar=sys.stdout.isatty(),
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,  # the data module shares out the cases itself
        )
        _check(run_trainer, module)
        started = time.perf_counter()
        try:
            run_trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(folder.path) from error
        except RuntimeError as error:
            if (named := data.explain(error)) is None:
                raise
            raise named from error
        result = _finish(folder, module, keep, run_trainer, time.perf_counter() - started)
        if is_owner:
            _record_result(folder, result)
    return result


def _record_result(folder: RunFolder, result: FitResult) -> None:
    facts = folder.read_json("environment.json")
    folder.write_json("environment.json", facts | {"result": asdict(result)})


def _check_zoom(module: SegmentationModule, zoom: Zoom | None) -> None:
    """What predictors will read must be what was trained."""
    trained = module.interaction.zoom if isinstance(module, InteractiveModule) else None
    if zoom == trained:
        return
    if not isinstance(module, InteractiveModule):
        raise InputError(
            f"data.zoom is {zoom}, but {type(module).__name__} sees whole images",
            fix="data.zoom=null, or train a model that is prompted: prompt=mixed",
            option="data.zoom",
        )
    raise InputError(
        f"data.zoom is {zoom}, the training looks with {trained}",
        fix="set prompt.interaction.zoom to the same",
        option="data.zoom",
    )


def _record(
    folder: RunFolder,
    module: SegmentationModule,
    data: SegmentationData,
    config: Mapping[str, Any],
    position: int | None,
    allow_changes: bool,
) -> None:
    """Write config.yaml and environment.json, or compare with them."""
    if position is None:
        folder.refuse_to_overwrite()
    changes = folder.keep_config(
        config, is_resumed=position is not None, allow_changes=allow_changes
    )
    facts = environment(data=data.fingerprint, device=torch.get_default_device(), seed=module.seed)
    old = folder.read_json("environment.json") if position is not None else {}
    if old and old["data"] != facts["data"] and not allow_changes:
        raise InputError(
            f"the data changed since the run was started: fingerprint {old['data'][:12]}, now "
            f"{facts['data'][:12]}",
            path=folder.path,
            fix="restore the data, or accept and record the change with allow_changes=true",
            code="data_changed",
            option="allow_changes",
        )
    counts = {"total": 0, "trainable": 0}
    for parameter in module.segmenter.parameters():
        counts["total"] += parameter.numel()
        counts["trainable"] += parameter.numel() * parameter.requires_grad
    resumed = old.get("resumed", [])
    if position is not None:
        resumed = [*resumed, {"step": position, "changes": changes}]
    folder.write_json("environment.json", facts | {"parameters": counts, "resumed": resumed})


def _loggers(folder: Path, position: int | None) -> list[Logger]:
    board = TensorBoardLogger(folder, name="", version="tensorboard", purge_step=position)
    return [MetricsCsv(folder / "metrics.csv", position), board]


def _check(trainer: Trainer, module: SegmentationModule) -> None:
    """Refuse combinations that would break resume or the schedule."""
    if trainer.max_steps != -1:
        raise InputError(
            f"trainer.max_steps={trainer.max_steps} cannot be resumed exactly",
            fix="limit a run by trainer.max_epochs, an epoch by trainer.limit_train_batches",
        )
    has_timer = any(isinstance(each, Timer) for each in getattr(trainer, "callbacks", ()))
    if module.plan.follow == "time" and not has_timer:
        raise InputError(
            "optimizer.follow=time needs a time limit",
            fix="set trainer.max_time, e.g. 00:00:10:00 for 10 minutes (days:hours:min:s)",
        )
    if module.plan.follow == "steps" and trainer.max_epochs == -1:
        raise InputError(
            "optimizer.follow=steps needs a number of epochs, got trainer.max_epochs=-1",
            fix="set trainer.max_epochs, or optimizer.follow=time with trainer.max_time",
        )


def _write_adapter(
    path: Path, module: SegmentationModule, data: SegmentationData, metrics: Mapping[str, float]
) -> None:
    info = replace(_description(module, data), metrics=dict(metrics))
    save_adapter(path, module.segmenter, info)


def _description(module: SegmentationModule, data: SegmentationData) -> ModelInfo:
    return ModelInfo.of(module.segmenter, labels=data.labels, input=data.input)


def _finish(
    folder: RunFolder,
    module: SegmentationModule,
    keep: RunKeeper,
    trainer: Trainer,
    seconds: float,
) -> FitResult:
    """Bring back the best weights and sum up."""
    best = folder.checkpoints / "best.ckpt"
    metrics: dict[str, float] = {}
    if best.exists():
        state = read_checkpoint(best)
        module.segmenter.load_trainable_state(state["state_dict"])
        metrics = state["callbacks"][keep.state_key]["best_metrics"]
    result = FitResult(str(folder.path), metrics, trainer.global_step, seconds, _peak_memory_mib())
    _log.info(
        "%s: %d steps in %.0f s, peak memory %.0f MiB, best %s",
        folder.path,
        result.steps,
        seconds,
        result.peak_memory_mib,
        {name: round(value, 4) for name, value in metrics.items()},
    )
    return result


def _peak_memory_mib() -> float:
    """Peak memory of the device: of the GPU if there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    if os.name == "nt":
        return 0.0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
