import sys

import pytest

from segkit.errors import MissingExtraError
from segkit.text.extra import import_open_clip


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'segkit\[text\]'"):
        import_open_clip()
