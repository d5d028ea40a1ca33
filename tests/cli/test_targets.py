"""A config builds classes of a few packages and nothing else."""

import pytest

from segkit.cli.targets import HYDRA, check_targets
from segkit.errors import InputError


@pytest.mark.parametrize(
    "target",
    [
        "segkit.adapters.DepthwiseDilated",
        "segkit.models.build.nano",
        "torch.optim.SGD",
        "lightning.pytorch.Trainer",
        "lightning.pytorch.callbacks.EarlyStopping",
    ],
)
def test_what_the_configs_need_is_allowed(target: str) -> None:
    check_targets({"a": [{"b": {"_target_": target}}]})


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("os.system", r"x\._target_='os\.system' is not allowed in a config"),
        ("builtins.eval", "is not allowed in a config"),
        ("hydra.utils.call", "is not allowed in a config"),
        ("segkit.cli.main.os.system", "is not a class of segkit"),
        ("segkit.cli.main.importlib.import_module", "is not a class of segkit"),
        ("segkit.lightning.environment.subprocess.Popen", "is not a class of segkit"),
        ("segkit.lightning.training.fit", "is not a class of segkit"),
        ("segkit.models.segmenter.torch.load", "is not a class of segkit"),
        ("segkit.adapters.Nothing", "does not exist; check its spelling"),
        ("segkit.adapters.base;os", "does not exist"),
        (["segkit"], "is not allowed"),
    ],
)
def test_everything_else_is_refused(target: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_targets({"x": {"_target_": target}})


def test_hydras_own_parts_are_checked_against_their_own_list() -> None:
    check_targets({"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}, HYDRA)
    with pytest.raises(InputError, match="is not allowed in a config"):
        check_targets({"_target_": "segkit.adapters.DepthwiseDilated"}, HYDRA)
