"""Training with Lightning: one base module, others that override how a batch is predicted."""

import segkit.torchvision_compat  # noqa: F401
from segkit.lightning.automatic import AutomaticModule
from segkit.lightning.average import WeightAverage
from segkit.lightning.base import BatchPrediction, SegmentationModule
from segkit.lightning.checkpoints import AtomicCheckpointIO, read_checkpoint, write_checkpoint
from segkit.lightning.cpu_timer import CpuTimer
from segkit.lightning.data import SegmentationData
from segkit.lightning.finite import DivergedError, FiniteGuard
from segkit.lightning.interactive import Interaction, InteractiveModule
from segkit.lightning.keeper import InterruptedRunError, RunKeeper
from segkit.lightning.optimizer import OptimizerPlan
from segkit.lightning.run_folder import RunFolder
from segkit.lightning.seeding import is_first_process, seed_all
from segkit.lightning.stems import StemCache, StemCacheSpec
from segkit.lightning.supervised import SupervisedModule
from segkit.lightning.training import FitResult, fit
from segkit.lightning.video import Following, VideoModule

__all__ = [
    "AtomicCheckpointIO",
    "AutomaticModule",
    "BatchPrediction",
    "CpuTimer",
    "DivergedError",
    "FiniteGuard",
    "FitResult",
    "Following",
    "Interaction",
    "InteractiveModule",
    "InterruptedRunError",
    "OptimizerPlan",
    "RunFolder",
    "RunKeeper",
    "SegmentationData",
    "SegmentationModule",
    "StemCache",
    "StemCacheSpec",
    "SupervisedModule",
    "VideoModule",
    "WeightAverage",
    "fit",
    "is_first_process",
    "read_checkpoint",
    "seed_all",
    "write_checkpoint",
]
