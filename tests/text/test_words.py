import pytest

from segkit.errors import DataWarning, InputError
from segkit.text.words import WordTokenizer

WORDS = ("bright", "ring", "lesion")


def test_words_become_numbers_between_start_and_end():
    tokens = WordTokenizer(WORDS, 6)(["Bright ring!", "lesion"])
    assert tokens.tolist() == [[2, 3, 4, 6, 0, 0], [2, 5, 6, 0, 0, 0]]


def test_the_end_has_the_highest_number():
    tokenizer = WordTokenizer(WORDS, 8)
    tokens = tokenizer(["ring bright lesion"])
    assert tokens.argmax(1).item() == 4
    assert tokens.max() == tokenizer.size - 1


def test_unknown_words_are_named_with_the_nearest():
    tokenizer = WordTokenizer(WORDS, 6)
    with pytest.warns(DataWarning, match="'brigt'.*did you mean 'bright'"):
        tokens = tokenizer(["brigt ring"])
    assert tokens[0, 1] == 1
    assert tokenizer.unknown("brigt ring") == ["brigt"]


@pytest.mark.parametrize("text", ["zebra", "a zebra", "the", "?"])
def test_a_text_without_a_known_word_is_refused(text):
    with pytest.raises(InputError, match=r"knows no word of .*; it knows bright, ring, lesion; or"):
        WordTokenizer(WORDS, 6)([text])


def test_articles_need_not_be_known():
    assert WordTokenizer(WORDS, 6)(["a ring"])[0].tolist() == [2, 1, 4, 6, 0, 0]


def test_long_texts_are_cut_with_a_warning():
    with pytest.warns(DataWarning, match="has 4 words, the encoder reads 2"):
        tokens = WordTokenizer(WORDS, 4)(["bright ring bright ring"])
    assert tokens.tolist() == [[2, 3, 4, 6]]


def test_bad_vocabularies_are_refused():
    with pytest.raises(InputError, match="got 'two words'"):
        WordTokenizer(("two words",), 4)
    with pytest.raises(InputError, match="twice"):
        WordTokenizer(("ring", "ring"), 4)
