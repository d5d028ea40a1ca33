"""The front of the command line: help, exit codes, errors in one paragraph, completion."""

import subprocess
import sys

import pytest

from segkit.cli import main as front
from segkit.cli.main import COMMANDS, HYDRA_COMMANDS, main, paragraph
from segkit.errors import InputError
from segkit.version import VERSION

LIGHT = """
import sys
from segkit.cli.main import main
main(["--help"])
heavy = {"torch", "numpy", "hydra", "lightning"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    assert "segkit train experiment=hippocampus" in done.stdout


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("train", "eval")])
def test_every_command_has_help_with_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: segkit {command}")
    assert f"segkit {command} " in text.split("usage:", 1)[1]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"segkit {VERSION}\n"


def test_unknown_command_is_a_usage_error_with_a_suggestion(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["trian"]) == 2
    assert capsys.readouterr().err == "segkit: unknown command 'trian'; did you mean 'train'?\n"


def test_unknown_option_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measure", "--nonsense"]) == 2
    assert "usage: segkit measure" in capsys.readouterr().err


def test_error_is_one_paragraph_without_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(command: str, words: list[str]) -> int:
        raise InputError("it is empty\n  indeed", path="a.nii", fix="send it again")

    monkeypatch.setattr(front, "_run", fail)
    assert main(["measure", "a.nii"]) == 1
    assert capsys.readouterr().err == "segkit measure: a.nii: it is empty indeed; send it again\n"
    with pytest.raises(InputError):
        main(["measure", "a.nii", "--debug"])


def test_exit_code_of_an_error_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(command: str, words: list[str]) -> int:
        error = InputError("interrupted")
        error.exit_code = 143  # type: ignore[attr-defined]
        raise error

    monkeypatch.setattr(front, "_run", fail)
    assert main(["measure"]) == 143


def test_paragraph_shows_the_error_of_segkit_behind_another() -> None:
    error = ValueError("Error in call to target 'y':\n...")
    error.__cause__ = InputError("labels are 3, 4", path="x")
    assert paragraph(error) == "x: labels are 3, 4"
    assert paragraph(KeyError()) == "KeyError"


@pytest.mark.parametrize(
    ("line", "expected"),
    [("segkit ", "demo plan train eval"), ("segkit me", "measure"), ("segkit predict ", "")],
)
def test_completion_names_commands(
    line: str,
    expected: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    assert main(["-sc", "query=bash"]) == 0
    assert capsys.readouterr().out.startswith(expected)


def test_completion_of_train_is_hydras(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "segkit train adapter=d"
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    assert main(["-sc", "query=bash"]) == 0
    assert "adapter=dilated" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "heavy"),
    [
        (
            [name for name in COMMANDS if name not in HYDRA_COMMANDS],
            ("torch", "numpy", "hydra", "rich", "fastapi"),
        ),
        (HYDRA_COMMANDS, ("torch", "numpy", "lightning", "monai", "rich")),
    ],
    ids=["flags", "configs"],
)
def test_help_of_commands_imports_nothing_heavy(names: list[str], heavy: tuple[str, ...]) -> None:
    code = (
        "import sys; from segkit.cli.main import main; "
        f"codes = [main([name, '--help']) for name in {names}]; "
        f"print(codes, [name for name in {heavy} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == f"{[0] * len(names)} []"
