import pytest

from segkit.errors import InputError
from segkit.text.template import parse_words, read_words


def test_equal_names_are_wordings_of_one_object():
    words = parse_words(["a ring", "cyst=a dark spot", "a hollow object", "cyst = black"], "head")
    assert words == {"head": ("a ring", "a hollow object"), "cyst": ("a dark spot", "black")}


@pytest.mark.parametrize("option", ["", "cyst=", "=words", "  "])
def test_an_option_without_words_is_refused(option):
    with pytest.raises(InputError, match="says nothing"):
        parse_words([option])


def test_a_file_names_objects(tmp_path):
    path = tmp_path / "words.yaml"
    path.write_text("lesion: [a bright lesion, ' a light mass ']\nhead: a ring\n")
    assert read_words(path) == {"lesion": ("a bright lesion", "a light mass"), "head": ("a ring",)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "holds no table"),
        ("lesion: []\n", "words of 'lesion' must be"),
        ("lesion: {image_1.png: a ring}\n", "one template serves all images"),
        ("lesion: [", "cannot be read as YAML"),
        ("lesion: !!python/object:os.system {}", "cannot be read as YAML"),
    ],
)
def test_other_files_are_refused(tmp_path, text, message):
    path = tmp_path / "words.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_words(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml: no such file"):
        read_words(tmp_path / "none.yaml")
