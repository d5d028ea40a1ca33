"""Colours and type of all figures, for light and for dark pages."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

DPI = 144


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of one page: surface, text, lines, and one colour per role of a row."""

    name: str
    surface: str
    text: str
    muted: str
    line: str
    adapted: str
    zero_shot: str
    others: tuple[str, ...]

    def colour(self, row: str, number: int = 0) -> str:
        """Colour of a row; baselines take the quiet ones in turn."""
        return {"adapted": self.adapted, "zero_shot": self.zero_shot}.get(
            row, self.others[number % len(self.others)]
        )


LIGHT = Theme(
    *("light", "#ffffff", "#1b2430", "#5d6b7c", "#dbe1e8", "#0f7c8f", "#d9661f"),
    others=("#8a96a6", "#b29a5b", "#7d6fae"),
)
DARK = Theme(
    *("dark", "#161c24", "#e7ecf2", "#9aa7b6", "#2c3642", "#35b7cd", "#f08c4a"),
    others=("#77869a", "#c2ab6d", "#a093d1"),
)

REFERENCE = "#ffd43b"  # contour on images, where the page theme does not matter
CLASS_COLOURS = ("#35d0e6", "#ff6bd6", "#8ce99a", "#ff922b", "#b197fc", "#ff8787")


@contextmanager
def new_figure(width: float, height: float, theme: Theme) -> Iterator[Figure]:
    """A figure of `width` x `height` inches in the colours of a theme, without global state."""
    settings: Any = {
        "font.family": "sans-serif",
        "font.size": 9.5,
        "text.color": theme.text,
        "axes.edgecolor": theme.line,
        "axes.labelcolor": theme.muted,
        "axes.titlecolor": theme.text,
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.facecolor": theme.surface,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": theme.line,
        "grid.linewidth": 0.7,
        "xtick.color": theme.line,
        "ytick.color": theme.line,
        "xtick.labelcolor": theme.muted,
        "ytick.labelcolor": theme.muted,
        "legend.frameon": False,
        "lines.linewidth": 2.0,
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(width, height), dpi=DPI, facecolor=theme.surface)
        FigureCanvasAgg(figure)
        yield figure


def to_png(figure: Figure) -> bytes:
    """Encode a figure; no software name or date goes into the file."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None}, facecolor="auto")
    return buffer.getvalue()


def quiet(axes: Axes, *, grid: str = "x") -> None:
    """Keep grid lines of one axis only and drop the tick marks."""
    axes.tick_params(length=0)
    for name in ("x", "y"):
        if name != grid:
            axes.grid(visible=False, axis=name)
