"""What to look for, in words: the same for every image of a set.

Words come from a person, once, by option or by file. Nothing here reads file names or reference
masks, so a label cannot leak into a prompt.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from segkit.errors import InputError

Words = Mapping[str, tuple[str, ...]]
"""Wordings by name of the object; several wordings are averaged."""


def parse_words(options: Sequence[str], name: str = "object") -> Words:
    """Read options "WORDS" and "NAME=WORDS"; equal names are wordings of one object.

    Raises:
        InputError: An option has no words.

    Example:
        >>> parse_words(["a bright ring", "cyst=a dark spot", "cyst=a black spot"])
        {'object': ('a bright ring',), 'cyst': ('a dark spot', 'a black spot')}
    """
    found: dict[str, tuple[str, ...]] = {}
    for option in options:
        key, equals, text = option.partition("=")
        key, text = (key.strip(), text.strip()) if equals else (name, option.strip())
        if not key or not text:
            raise InputError(
                f"--text {option!r} says nothing",
                fix="write WORDS, or NAME=WORDS for several objects",
            )
        found[key] = (*found.get(key, ()), text)
    return found


def read_words(path: str | Path) -> Words:
    """Read a YAML or JSON file {NAME: WORDS or [WORDS, ...]}.

    Raises:
        InputError: The file is missing or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("no such file", path=path, fix="name a YAML file of words")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        first = str(error).splitlines()[0]
        raise InputError(f"cannot be read as YAML ({first})", path=path) from error
    if not isinstance(content, dict) or not content:
        raise InputError(
            "holds no table of words",
            path=path,
            fix="write lines such as 'lesion: [a bright round lesion, a light mass]'",
        )
    return {str(name): _wordings(name, value, path) for name, value in content.items()}


def _wordings(name: object, value: object, path: Path) -> tuple[str, ...]:
    given = [value] if isinstance(value, str) else value
    listed = given if isinstance(given, list) else []
    wordings = [one.strip() for one in listed if isinstance(one, str)]
    if not listed or len(wordings) < len(listed) or not all(wordings):
        raise InputError(
            f"the words of {name!r} must be a text or a list of texts, got {value!r}",
            path=path,
            fix="one template serves all images; wordings by image would tell what is in them",
        )
    return tuple(wordings)
