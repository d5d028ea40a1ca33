"""Run a Hydra application behind `segkit`: arguments, closed lists, errors, one run folder."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from segkit.cli.targets import HYDRA, check_targets
from segkit.errors import InputError, SegkitError

CONFIGS = "pkg://segkit.configs"
RUN_VARIABLE = "SEGKIT_RUN"
"""Holds the folder of this run; the processes of one training inherit it."""

_FOREIGN = (HydraException, OmegaConfBaseException, yaml.YAMLError)
_EXPECTED = (SegkitError, ValueError, OSError, *_FOREIGN)
_SWITCHES = ("-m", "--multirun", "-r", "--run")
_ANSWERS = {"--help", "-h", "--hydra-help", "--info", "-i", "-sc", "--shell-completion"}


def run_hydra(
    name: str,
    task: Callable[[DictConfig], int],
    words: Sequence[str],
    *,
    after_sweep: Callable[[Path], None] | None = None,
) -> int:
    """Compose `configs/<name>.yaml` with the overrides in `words` and call `task`.

    `after_sweep` is called with the folder of a sweep once all of its jobs have succeeded.

    Raises:
        InputError: The config cannot be composed, or asks for what a config may not do.
    """
    register_resolvers()
    # Hydra's parser wants its overrides in one piece
    words = sorted(words, key=lambda word: word in _SWITCHES)
    job, arguments, folder = _Job(task, sys.argv), sys.argv, None
    try:
        with _own_experiment(words) as words, _arguments([arguments[0], *words]):
            if not _ANSWERS & {word.partition("=")[0] for word in words}:
                folder = _check_hydra_node(name, words)
            hydra.main(version_base="1.3", config_path=CONFIGS, config_name=name)(job)()
        for failure in job.failures:
            raise failure
    except _FOREIGN as error:
        raise _explained(error, name) from error
    except SystemExit as stop:  # Hydra's parser has printed usage
        return int(stop.code or 0)
    finally:
        os.environ.pop(RUN_VARIABLE, None)
    if after_sweep is not None and folder is not None:
        after_sweep(folder)
    return max(job.codes, default=0)


class _Job:
    """What Hydra calls with each composed config, in this process or where a launcher sends it."""

    def __init__(self, task: Callable[[DictConfig], int], arguments: list[str]) -> None:
        self.task, self.arguments, self.owner = task, arguments, os.getpid()
        self.codes: list[int] = []
        self.failures: list[Exception] = []

    def __call__(self, cfg: DictConfig) -> None:
        if self.failures:  # the rest of a sweep
            return
        sys.argv = self.arguments  # what a distributed training starts its other processes with
        try:
            self.codes.append(self.task(cfg))
        except _EXPECTED as error:
            if os.getpid() != self.owner:  # on its way back only the text is sure to survive
                raise SegkitError(str(error)) from None
            self.failures.append(error)  # raised later: Hydra would add a line of its own

    def __setstate__(self, state: dict[str, Any]) -> None:
        # a process of a launcher has not been through `run_hydra`
        register_resolvers()
        self.__dict__.update(state)


def register_resolvers() -> None:
    """Offer `run_folder`, and keep configs away from the environment."""
    OmegaConf.register_new_resolver("oc.env", _refuse_environment, replace=True)
    OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)


def run_folder(root: str, name: str, ckpt_path: str | None = None) -> str:
    """Folder of this run: a new one by time, or the newest with a checkpoint for "last".

    The answer is the same in every process of one training.

    Raises:
        InputError: There is nothing to resume, or the processes were started one by one.
    """
    if known := os.environ.get(RUN_VARIABLE):
        return known
    parent = Path(root) / name
    if ckpt_path == "last":
        runs = sorted(path.parents[1] for path in parent.glob("*/checkpoints/last.ckpt"))
        if not runs:
            raise InputError(
                "there is no run to resume",
                path=parent,
                fix="name its folder with run=PATH, or leave ckpt_path out to start",
                code="nothing_to_resume",
            )
        folder = runs[-1]
    elif int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "processes that were started one by one cannot agree on a new folder",
            fix="name it with run=PATH",
        )
    else:
        folder = parent / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    os.environ[RUN_VARIABLE] = str(folder)
    return str(folder)


def _refuse_environment(*arguments: Any) -> str:
    raise InputError(
        f"a config may not read the environment (oc.env: {arguments[0] if arguments else ''})",
        fix="pass the value on the command line",
        code="environment",
    )


def _check_hydra_node(name: str, words: Sequence[str]) -> Path | None:
    """Check what Hydra itself would build or set before the application is called.

    Returns the folder of a sweep.
    """
    args = get_args_parser().parse_args(list(words))
    overrides = list(_first_values(args.overrides))
    if args.config_dir:
        overrides.append(f"hydra.searchpath=[file://{Path(args.config_dir).resolve()}]")
    with hydra.initialize_config_module("segkit.configs", version_base="1.3"):
        cfg = hydra.compose(args.config_name or name, overrides, return_hydra_config=True)
    node: Any = OmegaConf.to_container(cfg.hydra, resolve=False)
    check_targets({"hydra": node}, HYDRA)
    if node["job"]["env_set"]:
        raise InputError(
            "hydra.job.env_set is not allowed in a config", fix="set variables in the shell"
        )
    return Path(cfg.hydra.sweep.dir) if args.multirun else None


def _first_values(overrides: Sequence[str]) -> Iterator[str]:
    """The overrides, of a sweep with its first value."""
    parser = OverridesParser.create()
    for word in overrides:
        override = parser.parse_override(word)
        if override.is_sweep_override():
            value = next(iter(override.sweep_string_iterator()))
            word = f"{override.get_key_element()}={value}"
        yield word


@contextmanager
def _own_experiment(words: Sequence[str]) -> Iterator[list[str]]:
    """Let `experiment=FILE.yaml` name a file of the user instead of one that ships.

    Raises:
        InputError: There is no such file.
    """
    given = [word for word in words if word.startswith("experiment=") and word.endswith(".yaml")]
    if not given:
        yield list(words)
        return
    path = Path(given[-1].partition("=")[2])
    if not path.is_file():
        raise InputError("no such experiment file", path=path, fix="check the path")
    # jobs on other machines see the folder of the file, not the temporary one of this machine
    is_sent = any(word.startswith("hydra/launcher=") for word in words)
    beside = path.resolve().parent if is_sent else None
    with tempfile.TemporaryDirectory(prefix=".segkit-", dir=beside) as folder:
        # a name of its own, because a shipped experiment of the same name would come first
        copy = Path(folder) / "experiment" / f"file_{path.name}"
        copy.parent.mkdir()
        shutil.copyfile(path, copy)
        kept = [word for word in words if word not in given]
        yield [f"experiment={copy.stem}", f"hydra.searchpath=[file://{folder}]", *kept]


@contextmanager
def _arguments(words: list[str]) -> Iterator[None]:
    """Let Hydra parse `words`, and raise instead of printing a trimmed traceback."""
    before, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = words, "1"
    try:
        yield
    finally:
        sys.argv = before
        if full is None:
            os.environ.pop("HYDRA_FULL_ERROR")


def _explained(error: BaseException, name: str) -> SegkitError:
    """The error of segkit behind one of Hydra, or its message in one paragraph."""
    cause: BaseException = error
    while cause.__cause__ is not None and not isinstance(cause, SegkitError):
        cause = cause.__cause__
    if isinstance(cause, SegkitError):
        return cause
    where = getattr(error, "full_key", None) or ""
    if isinstance(error, MissingMandatoryValue):
        return InputError(f"{where} has no value", fix=f"add {where}=VALUE")
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("full_key:", "object_type="))]
    return InputError(" ".join(kept[:6]), fix=f"see `segkit {name} --help`")
