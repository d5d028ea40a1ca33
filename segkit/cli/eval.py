"""`segkit eval`: read what the run says about its data, build the settings, evaluate, print."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import yaml
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import Progress as Bar

from segkit.cli.folds import folds_in
from segkit.cli.targets import check_targets
from segkit.data.clips_sequences import ClipSpec
from segkit.data.datamodule import SampleSpec, SourceSpec
from segkit.data.splits import SplitSpec
from segkit.errors import InputError
from segkit.evaluation import Evaluation, EvaluationSettings, OracleProtocol, Others, evaluate
from segkit.evaluation.clips_runner import ClipSettings, evaluate_clips
from segkit.evaluation.folds import merge
from segkit.evaluation.others import named
from segkit.evaluation.samples import Progress

Spec = TypeVar("Spec")

_CLICKS = 3


def evaluate_and_print(cfg: DictConfig) -> int:
    """Evaluate one composed config and print a line per row."""
    folds = [] if cfg.run is None else folds_in(Path(cfg.run))
    with _progress() as progress:
        found = _evaluate_folds(cfg, folds, progress) if folds else evaluate_config(cfg, progress)
    for line in _lines(found):
        sys.stdout.write(f"{line}\n")
    return 0


def evaluate_config(cfg: DictConfig, progress: Progress | None = None) -> Evaluation:
    """Evaluate what a composed config asks for.

    Raises:
        InputError: The config names something it may not build, or the run cannot be read.
    """
    plain: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    check_targets(plain)
    if plain["run"] is None and plain["predictions"] is None:
        raise InputError(
            "there is nothing to evaluate", fix="add run=RUN, predictions=FOLDER, or both"
        )
    trained = {} if cfg.run is None else _training_config(Path(cfg.run))
    slices = trained.get("data", {}).get("slices", {})
    if "clips" in slices:
        return _evaluate_clips(cfg, plain, trained, progress)
    if plain["clips"]["compat"] is not None:
        raise InputError(
            f"clips.compat={plain['clips']['compat']} says how clips are measured, and this model "
            "was not trained on clips",
            fix="leave it out",
        )
    source = _changed(_built(slices, "source", SourceSpec), plain["data"])
    protocol = _protocol(plain["prompt"], trained)
    settings: EvaluationSettings = instantiate(cfg.settings, _convert_="all")
    wanted = settings.saliency or (trained.get("evaluation") or {}).get("saliency")
    return evaluate(
        cfg.run,
        source.find(plain["data"]["root"]),
        split=cfg.split,
        out=cfg.out,
        settings=replace(settings, protocol=protocol, saliency=wanted),
        checkpoint=cfg.checkpoint or trained.get("backbone", {}).get("checkpoint"),
        device=cfg.device,
        splits=_built(slices, "split", SplitSpec),
        samples=_changed(_built(slices, "samples", SampleSpec), plain["data"]),
        others=Others(named(plain["against"]), named(plain["predictions"])),
        progress=progress,
    )


def _evaluate_folds(cfg: DictConfig, folds: Sequence[Path], progress: Progress) -> Evaluation:
    """Evaluate each fold of a sweep on the cases it did not see, and all of them in one table."""
    if cfg.split != "val":
        raise InputError(
            f"the folds of a cross-validation are compared on split=val, got split={cfg.split}",
            path=cfg.run,
            fix="for other cases let them answer together: segkit predict --ensemble",
        )
    found = []
    for fold in folds:
        one = OmegaConf.merge(cfg, {"run": str(fold)})
        assert isinstance(one, DictConfig)
        found.append(evaluate_config(one, progress))
    return merge(found, Path(cfg.out or Path(cfg.run) / "eval" / "val"))


def _evaluate_clips(
    cfg: DictConfig, plain: Mapping[str, Any], trained: Mapping[str, Any], progress: Progress | None
) -> Evaluation:
    """Evaluate a model that was trained on clips: on clips, marked once on their first frame."""
    slices = trained["data"]["slices"]
    if plain["against"] or plain["predictions"]:
        raise InputError(
            "clips are not compared with other runs or with label maps yet",
            fix="leave out against and predictions",
        )
    source = _changed(_built(slices, "source", SourceSpec), plain["data"])
    settings = ClipSettings(
        clips=_built(slices, "clips", ClipSpec),
        mark={None: "box", "clicks": "click"}.get(plain["prompt"]["kind"], plain["prompt"]["kind"]),
        evaluation=instantiate(cfg.settings, _convert_="all"),
        compat=plain["clips"]["compat"],
    )
    return evaluate_clips(
        cfg.run,
        source.find(plain["data"]["root"]),
        settings,
        split=cfg.split,
        out=cfg.out,
        checkpoint=cfg.checkpoint or trained.get("backbone", {}).get("checkpoint"),
        device=cfg.device,
        splits=_built(slices, "split", SplitSpec),
        samples=_changed(_built(slices, "samples", SampleSpec), plain["data"]),
        progress=progress,
    )


def _training_config(run_path: Path) -> Mapping[str, Any]:
    """Settings of the training; empty for a model that comes without."""
    path = run_path / "config.yaml"
    if not path.is_file():
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise InputError(
            "this is not a readable YAML file", path=path, fix="restore it, or remove it"
        ) from error
    if not isinstance(found, dict):
        raise InputError(f"expected settings by name, got {found!r}", path=path, fix="remove it")
    check_targets(found)
    return found


def _built(slices: Mapping[str, Any], name: str, kind: type[Spec]) -> Spec:
    """Part of the data settings of the training, or the default."""
    if name not in slices:
        return kind()
    built = instantiate(slices[name], _convert_="all")
    if not isinstance(built, kind):
        raise InputError(f"data.slices.{name} of the run is no {kind.__name__}, got {built!r}")
    return built


def _changed(spec: Any, given: Mapping[str, Any]) -> Any:
    """Settings of the training with those that were given now."""
    known = type(spec).__dataclass_fields__
    return replace(spec, **{k: v for k, v in given.items() if k in known and v is not None})


def _protocol(given: Mapping[str, Any], trained: Mapping[str, Any]) -> OracleProtocol:
    """The simulated user that was asked for, else one like that of the training."""
    interaction = trained.get("prompt", {}).get("interaction") or {}
    kind = given["kind"]
    if kind is None:
        kind = "clicks" if interaction.get("box_share") == 0 or given["clicks"] else "box"
    clicks = given["clicks"] or (_CLICKS if kind == "clicks" else 1)
    counts = (clicks,) if given["clicks"] else tuple(given["counts"])
    return OracleProtocol(**{**given, "kind": kind, "clicks": clicks, "counts": counts})


def _silent(done: int, total: int) -> None:
    """Not a terminal."""


def _lines(found: Evaluation) -> Iterator[str]:
    summary = found.summary
    width = max(len(row["title"]) for row in summary["rows"].values())
    yield f"{summary['cases']} cases of {summary['split']}, mean over classes [95 % interval]"
    for row in summary["rows"].values():
        mean = row["mean"]
        oracle = "  (oracle prompt)" if row["is_oracle"] else ""
        yield (
            f"{row['title']:{width}}  Dice {_interval(mean['dice'], 3)}"
            f"  NSD {_interval(mean['nsd'], 3)}"
            f"  HD95 {_interval(mean['hd95_mm'], 2)} {summary['unit']}{oracle}"
        )
    for row in summary["rows"].values():
        if maps := row.get("saliency"):
            yield (
                f"{row['title']:{width}}  S {_interval(maps['s_measure'], 3)}"
                f"  weighted F {_interval(maps['weighted_f'], 3)}"
                f"  E {_interval(maps['e_measure'], 3)}  MAE {_interval(maps['mae'], 3)}"
            )
    if found.folder is not None:
        yield f"report: {found.folder / 'report.html'}"


def _interval(figure: Mapping[str, Any], digits: int) -> str:
    low, high = figure["ci95"]
    spread = "" if low is None else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{figure['mean']:.{digits}f}{spread}"


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on a terminal; elsewhere the log has a line per case."""
    if not sys.stderr.isatty():
        yield _silent
        return
    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("evaluating")
        yield lambda done, total: bar.update(task, completed=done, total=total)
