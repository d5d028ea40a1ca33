"""Seeds and ranks."""

from lightning.pytorch import seed_everything
from lightning.pytorch.utilities import rank_zero_only


def seed_all(seed: int) -> None:
    """Seed Python, NumPy and torch, so that a model starts with the same weights."""
    seed_everything(seed, workers=True, verbose=False)


def is_first_process() -> bool:
    """Whether this process keeps the run folder; true where there is only one."""
    return getattr(rank_zero_only, "rank", 0) == 0
