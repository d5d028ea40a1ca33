"""Names of label values inside a NIfTI header, as a Caret label table.

The same XML is written by TotalSegmentator and shown by Connectome Workbench.
"""

import colorsys
import re
from collections.abc import Mapping
from html import escape, unescape
from types import MappingProxyType

MAX_NAME = 200  # characters; longer "names" are something else
_LABEL = re.compile(
    r"<Label\s[^>]*?Key=\"(\d{1,5})\"[^>]*>\s*(?:<!\[CDATA\[(.*?)\]\]>|([^<]*))\s*</Label>", re.S
)


def label_colour(value: int) -> tuple[float, float, float]:
    """Red, green and blue in [0, 1] of a label value; neighbouring values differ clearly."""
    return colorsys.hsv_to_rgb((0.618034 * value) % 1.0, 0.65, 0.95)


def caret_table(labels: Mapping[int, str]) -> bytes:
    """XML of a label table."""
    rows = []
    for value, name in sorted(labels.items()):
        red, green, blue = label_colour(value)
        rows.append(
            f'<Label Key="{value}" Red="{red:.3f}" Green="{green:.3f}" Blue="{blue:.3f}" Alpha="1">'
            f"{escape(name)}</Label>"
        )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><CaretExtension><VolumeInformation Index="0">'
        f"<LabelTable>{''.join(rows)}</LabelTable><VolumeType>Label</VolumeType>"
        "</VolumeInformation></CaretExtension>"
    ).encode()


def parse_caret(data: bytes) -> Mapping[int, str]:
    """Names by value found in header extensions; empty if there is no table.

    Only `<Label Key=...>` elements are looked for: no XML parser meets foreign bytes.
    """
    if b"<LabelTable" not in data:
        return MappingProxyType({})
    found = _LABEL.findall(data.decode("utf-8", errors="replace"))
    names = {int(key): cdata or unescape(text).strip() for key, cdata, text in found}
    return MappingProxyType(
        {value: name for value, name in names.items() if value > 0 and 0 < len(name) <= MAX_NAME}
    )
