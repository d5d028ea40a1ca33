"""How `segkit eval` reads its words: Hydra composes a config of them and calls the command."""

from collections.abc import Sequence

from omegaconf import DictConfig

from segkit.cli.hydra_app import run_hydra


def run(words: Sequence[str]) -> int:
    """Run `segkit eval run=RUN data.root=PATH [split=test] [overrides]`."""
    return run_hydra("eval", evaluate_and_print, words)


def evaluate_and_print(cfg: DictConfig) -> int:
    """Import what does the work, now that there is some."""
    from segkit.cli.eval import evaluate_and_print as task

    return task(cfg)
