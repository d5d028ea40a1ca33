"""How `segkit train` reads its words: Hydra composes a config of them and calls the command."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from segkit.cli.hydra_app import run_hydra


def run(words: Sequence[str]) -> int:
    """Run `segkit train experiment=NAME data.root=PATH [overrides]`."""
    return run_hydra("train", train, words, after_sweep=_merge_folds)


def train(cfg: DictConfig) -> int:
    """Import what does the work, now that there is some."""
    from segkit.cli.train import train as task

    return task(cfg)


def _merge_folds(sweep: Path) -> None:
    from segkit.cli.folds import merge_folds

    merge_folds(sweep)
