"""The command `segkit`: finds the command's module, sets up logging, prints errors."""

import argparse
import difflib
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Sequence

from segkit.errors import SegkitError
from segkit.version import VERSION

COMMANDS = {
    "demo": "the main job from end to end on generated data",
    "plan": "from a folder of data to an experiment",
    "train": "fine-tune an adapter on labelled images or volumes",
    "eval": "measure a trained model, beside zero-shot and baselines",
    "predict": "segment images, volumes or folders of them",
    "convert": "turn official and authors' checkpoints into segkit files",
    "models": "list, describe and fetch models",
    "measure": "volume, surface and diameters of a mask",
    "serve": "models for Slicer, napari, MONAI Label clients and the browser",
    "doctor": "what is installed, what works, what is missing",
}
"""What each command does; its module is imported only when it runs."""

HYDRA_COMMANDS = ("train", "eval")
"""Commands that take `key=value` and parse their arguments themselves."""

_USAGE = 2
_COMPLETION = ("-sc", "--shell-completion")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 (failed) or 2 (usage)."""
    words = list(sys.argv[1:] if argv is None else argv)
    is_debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if words and words[0] in _COMPLETION:
        return _complete(words)
    command = words[0] if words else "--help"
    if command not in COMMANDS:
        return _without_command(command)
    _set_up_logging(is_debug)
    try:
        return _run(command, words[1:])
    except (SegkitError, ValueError, OSError) as error:
        if is_debug:
            raise
        sys.stderr.write(f"segkit {command}: {paragraph(error)}\n")
        return int(getattr(error, "exit_code", 1))
    except KeyboardInterrupt:
        sys.stderr.write(f"segkit {command}: interrupted\n")
        return 130


def paragraph(error: BaseException) -> str:
    """Message of an error in one paragraph, that of the error of segkit behind it if any."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, SegkitError):
        cause = cause.__cause__
    shown = cause or error
    lines = [line.strip() for line in str(shown).splitlines() if line.strip()]
    if lines and lines[0].startswith("Caught "):  # passed on by a data worker, with its traceback
        lines = [lines[-1].partition(": ")[2] or lines[-1]]
    return " ".join(lines) or type(shown).__name__


def _run(command: str, words: list[str]) -> int:
    flags = importlib.import_module(f"segkit.cli.arguments.{command}")
    if command in HYDRA_COMMANDS:
        return flags.run(words)
    parser = _parser()
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    flags.add_parser(commands)
    try:
        args = parser.parse_args([command, *words])
    except SystemExit as stop:  # argparse has printed help or usage
        return int(stop.code or 0)
    return importlib.import_module(f"segkit.cli.{command}").run(args)


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    table = "\n".join(f"  {name:{width}}  {text}" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="segkit",
        description="Adapt frozen SAM and SAM 2 to medical images, volumes and videos.",
        epilog=f"commands:\n{table}\n\nexample: segkit train experiment=hippocampus "
        "data.root=Task04_Hippocampus\n\n`segkit COMMAND --help` says more; "
        "--debug shows the traceback of an error.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"segkit {VERSION}")
    return parser


def _without_command(word: str) -> int:
    if not word.startswith("-"):
        near = difflib.get_close_matches(word, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"commands: {', '.join(COMMANDS)}"
        sys.stderr.write(f"segkit: unknown command {word!r}; {hint}\n")
        return _USAGE
    parser = _parser()
    try:
        parser.parse_args([word])
    except SystemExit as stop:
        return int(stop.code or 0)
    return _USAGE


def _complete(words: list[str]) -> int:
    """Answer the shell: names of commands, then what Hydra knows of `train` and `eval`."""
    line = os.environ.get("COMP_LINE", "").split(" ")
    command = line[1] if len(line) > 2 else ""
    if command in HYDRA_COMMANDS:
        # Hydra expects its application to be the first word
        rest = " ".join([line[0], *line[2:]])
        os.environ["COMP_LINE"], os.environ["COMP_POINT"] = rest, str(len(rest))
        return _run(command, words)
    if words[1:] and words[1].startswith("query="):
        start = line[1] if len(line) == 2 else ""
        names = [] if command else [name for name in COMMANDS if name.startswith(start)]
        sys.stdout.write(" ".join(names) + "\n")
        return 0
    return _run("train", words)


def _set_up_logging(is_debug: bool) -> None:
    """The only place that configures logging: segkit speaks, other packages only warn."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger("segkit").setLevel(logging.DEBUG if is_debug else logging.INFO)
    warnings.formatwarning = lambda message, *_: f"warning: {message}"
    logging.captureWarnings(True)


if __name__ == "__main__":
    sys.exit(main())
