import sys

import pytest

pytest.importorskip("tokenizers", reason="needs segkit[text]")

from segkit.errors import CheckpointError, MissingExtraError
from segkit.text.wordpiece import WordPieceTokenizer

VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "brain", "tumor", "##s", "a")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return tmp_path


def test_texts_become_pieces_padded_with_zero(folder):
    tokens = WordPieceTokenizer(folder, 8)(["A  brain\ttumors", "kidney"])
    assert tokens.tolist() == [[2, 8, 5, 6, 7, 3, 0, 0], [2, 1, 3, 0, 0, 0, 0, 0]]


def test_long_texts_keep_their_end(folder):
    tokens = WordPieceTokenizer(folder, 4)(["brain brain brain brain"])
    assert tokens.tolist() == [[2, 5, 5, 3]]


def test_a_tokenizer_file_is_preferred(folder):
    from tokenizers.implementations import BertWordPieceTokenizer

    words = {word: number for number, word in enumerate(VOCABULARY)}
    BertWordPieceTokenizer(words, lowercase=True).save(str(folder / "tokenizer.json"))
    (folder / "vocab.txt").write_text("nonsense\n")
    assert WordPieceTokenizer(folder, 4)(["brain"]).tolist() == [[2, 5, 3, 0]]


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"holds no tokenizer \(tokenizer.json or vocab.txt\)"
    ):
        WordPieceTokenizer(tmp_path, 8)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read as a tokenizer"):
        WordPieceTokenizer(tmp_path, 8)


def test_a_missing_package_names_the_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingExtraError, match=r"segkit\[text\]"):
        WordPieceTokenizer(folder, 8)
