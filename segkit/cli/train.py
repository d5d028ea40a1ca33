"""`segkit train`: compose a config, build the objects, train.

After `instantiate` there is no config left.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from segkit.cli.targets import check_targets
from segkit.data.atomic import atomic_file
from segkit.lightning import FitResult, SegmentationData, fit, is_first_process, seed_all


def train(cfg: DictConfig) -> int:
    """Train one composed config in the output folder Hydra made for it."""
    run_path = Path(HydraConfig.get().runtime.output_dir)
    with _log_file(run_path / "train.log"):
        train_config(cfg, run_path)
    return 0


def train_config(cfg: DictConfig, run_path: str | Path) -> FitResult:
    """Build data, model, module and trainer of a config and fit.

    Raises:
        InputError: The config names something it may not build.
    """
    plain: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    _keep_plan(plain.pop("plan", None), Path(run_path))
    check_targets(plain)
    seed_all(cfg.seed)
    data = SegmentationData(instantiate(cfg.data.slices, _convert_="all"))
    more = {"classes": len(data.labels)} if cfg.automatic else {}
    segmenter = instantiate(cfg.backbone, **more, _convert_="all")
    # a partial, because Hydra would turn a dataclass among its keywords into a dict
    module = instantiate(cfg.prompt, _convert_="all")(
        segmenter,
        instantiate(cfg.loss, _convert_="all"),
        optimizer=instantiate(cfg.optimizer, _convert_="all"),
        labels=data.labels,
        seed=cfg.seed,
    )
    module.stems = instantiate(cfg.feature_cache, _convert_="all").open(
        segmenter, images_recur=data.images_recur, is_supported=module.reads_stems
    )
    return fit(
        module,
        data,
        run_path,
        trainer=instantiate(cfg.trainer, _convert_="all"),
        keeper=instantiate(cfg.keeper, _convert_="all"),
        callbacks=[instantiate(each, _convert_="all") for each in cfg.callbacks.values() if each],
        config=plain,
        resume=cfg.ckpt_path,
        allow_changes=cfg.allow_changes,
    )


def _keep_plan(plan: Mapping[str, Any] | None, run_path: Path) -> None:
    """Put what `segkit plan` found beside the results; the settings themselves are the config."""
    if plan is None or not is_first_process():
        return
    run_path.mkdir(parents=True, exist_ok=True)
    with atomic_file(run_path / "plan.json") as file:
        file.write((json.dumps(plan, indent=2) + "\n").encode())


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """Append what is logged to `train.log`; one process of a training does."""
    if not is_first_process():
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
