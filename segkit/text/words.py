"""A tokenizer of whole words, for encoders with a small vocabulary of their own."""

import difflib
import re
import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from segkit.errors import DataWarning, InputError

PAD, UNKNOWN, START = "<pad>", "<unknown>", "<start>"
END = "<end>"
"""Has the highest number: `open_clip` reads a text at its highest token."""

_WORD = re.compile(r"[a-z0-9]+")


class WordTokenizer:
    """Split a text into lower-case words and number them.

    Words outside of the vocabulary become one and the same token, with a `DataWarning` that names
    them and the nearest known word; a text without any known word is refused when it is read, since
    the answer would have nothing to do with it. Texts longer than `context` are cut, with a warning
    too.

    Raises:
        InputError: The vocabulary holds a word twice or one that no text can contain.

    Example:
        >>> WordTokenizer(("bright", "ring"), context=5)(["a bright ring"]).shape
        torch.Size([1, 5])
    """

    def __init__(self, words: Sequence[str], context: int) -> None:
        if bad := [word for word in words if not _WORD.fullmatch(word)]:
            raise InputError(
                f"vocabulary words must be of the letters a-z and digits, got {bad[0]!r}"
            )
        if len(set(words)) != len(words):
            raise InputError("the vocabulary holds a word twice")
        self.words, self.context = tuple(words), context
        tokens = (PAD, UNKNOWN, START, *words, END)
        self._number = {token: number for number, token in enumerate(tokens)}

    @property
    def size(self) -> int:
        """Number of tokens, the four special ones among them."""
        return len(self._number)

    def __call__(self, texts: Sequence[str]) -> Int[Tensor, "texts context"]:
        """Token numbers, filled up with zeros."""
        out = torch.zeros(len(texts), self.context, dtype=torch.long)
        for row, text in enumerate(texts):
            words = _WORD.findall(text.lower())
            self._check(words, text)
            known = [self._lookup(word, text) for word in words]
            if len(known) > (room := self.context - 2):
                warnings.warn(
                    f"text {text!r} has {len(known)} words, the encoder reads {room}; "
                    "the rest is ignored",
                    DataWarning,
                    stacklevel=2,
                )
            numbers = [self._number[START], *known[:room], self._number[END]]
            out[row, : len(numbers)] = torch.tensor(numbers)
        return out

    def unknown(self, text: str) -> list[str]:
        """Words of a text that are not in the vocabulary."""
        return [word for word in _WORD.findall(text.lower()) if word not in self._number]

    def _check(self, words: Sequence[str], text: str) -> None:
        """Refuse a text of which nothing would be left."""
        if any(word in self._number for word in words if word not in ARTICLES):
            return
        raise InputError(
            f"the text encoder knows no word of {text!r}",
            fix=f"it knows {', '.join(self.words)}; or use another encoder",
            code="unknown_words",
        )

    def _lookup(self, word: str, text: str) -> int:
        if (number := self._number.get(word)) is not None:
            return number
        if word not in ARTICLES:
            near = difflib.get_close_matches(word, self.words, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            warnings.warn(
                f"the text encoder does not know the word {word!r} of {text!r}{hint}",
                DataWarning,
                stacklevel=3,
            )
        return self._number[UNKNOWN]


ARTICLES = frozenset(("a", "an", "the"))
