"""The word pieces of BERT, from the files of a model folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from segkit.errors import CheckpointError, MissingExtraError

FILES = ("tokenizer.json", "vocab.txt")


class WordPieceTokenizer:
    """Split texts as the model in `folder` was trained with; `context` tokens, 0 is padding.

    Raises:
        CheckpointError: The folder holds none of `FILES`, or the file is damaged.
        MissingExtraError: The package `tokenizers` is not installed.
    """

    def __init__(self, folder: Path, context: int) -> None:
        try:
            from tokenizers import Tokenizer
            from tokenizers.implementations import BertWordPieceTokenizer
        except ImportError as error:
            raise MissingExtraError("tokenizers", "text") from error
        path = next((folder / name for name in FILES if (folder / name).is_file()), None)
        if path is None:
            raise CheckpointError(
                f"holds no tokenizer ({' or '.join(FILES)})",
                path=folder,
                fix="copy it from where the weights came from",
                code="not_found",
            )
        try:
            if path.suffix == ".json":
                self._tokenizer: Any = Tokenizer.from_file(str(path))
            else:
                words = {word: n for n, word in enumerate(path.read_text("utf-8").splitlines())}
                self._tokenizer = BertWordPieceTokenizer(words, lowercase=True)
        except Exception as error:  # the library raises bare exceptions
            raise CheckpointError(
                f"cannot be read as a tokenizer ({error})", path=path, fix="copy it again"
            ) from error
        self._tokenizer.enable_truncation(max_length=context)
        self._tokenizer.enable_padding(length=context, pad_id=0, pad_token="[PAD]")

    def __call__(self, texts: Sequence[str]) -> Int[Tensor, "texts context"]:
        """Token numbers, white space runs count as one blank."""
        clean = [" ".join(text.split()) for text in texts]
        return torch.tensor([one.ids for one in self._tokenizer.encode_batch(clean)])
