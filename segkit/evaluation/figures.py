"""Figures of a report, drawn with matplotlib's Agg canvas; each function returns PNG bytes."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from segkit.evaluation.clips_figures import FilmStrip
from segkit.evaluation.examples import Example
from segkit.evaluation.scores import ScoreTable
from segkit.evaluation.theme import (
    CLASS_COLOURS,
    REFERENCE,
    Theme,
    new_figure,
    quiet,
    to_png,
)

Curves = Mapping[str, Mapping[str, Sequence[float]]]

_STRIP_HEIGHT = 0.34


def distributions(
    table: ScoreTable,
    figures: Mapping[str, str],
    titles: Mapping[str, str],
    theme: Theme,
) -> bytes:
    """Box and strip plots of every row and class; one panel per figure, `figures` has its title."""
    bands = [(value, row) for value in table.labels for row in table.rows]
    height = 1.1 + _STRIP_HEIGHT * len(bands) + 0.35 * len(table.labels)
    with new_figure(10.5, height, theme) as figure:
        panels = np.atleast_1d(figure.subplots(1, len(figures), sharey=True))
        for axes, (name, title) in zip(panels, figures.items(), strict=True):
            ticks = _bands(axes, table, name, theme)
            axes.set_title(title)
            axes.set_yticks(list(ticks), [titles.get(row, row) for row in ticks.values()])
            axes.set_ylim(max(ticks) + 0.6, -1.0)
            axes.xaxis.set_major_locator(MaxNLocator(5))
            quiet(axes)
        figure.tight_layout(w_pad=2.2)
        return to_png(figure)


def _bands(axes: Axes, table: ScoreTable, figure: str, theme: Theme) -> dict[float, str]:
    """Draw one band per class and row; return the row at each height."""
    rng = np.random.default_rng(0)
    ticks: dict[float, str] = {}
    y = 0.0
    for value, label in table.labels.items():
        axes.annotate(
            label,
            (0, y - 0.58),
            xycoords=("axes fraction", "data"),
            color=theme.muted,
            fontsize=8.5,
        )
        for number, row in enumerate(table.rows):
            values = [getattr(score.metrics, figure) for score in table.of(row, value)]
            colour = theme.colour(row, number)
            axes.boxplot(
                [values],
                positions=[y],
                orientation="horizontal",
                widths=0.52,
                showfliers=False,
                patch_artist=True,
                boxprops={"facecolor": colour, "alpha": 0.22, "edgecolor": colour},
                medianprops={"color": colour, "linewidth": 2.4},
                whiskerprops={"color": colour},
                capprops={"color": colour},
            )
            spread = y + rng.uniform(-0.17, 0.17, len(values))
            axes.scatter(values, spread, s=11, color=colour, alpha=0.75, linewidths=0, zorder=3)
            ticks[y] = row
            y += 1
        y += 0.9
    return ticks


def overlay(
    example: Example, titles: Mapping[str, str], labels: Mapping[int, str], theme: Theme
) -> bytes:
    """Image, then each row's contours over it beside the reference's."""
    count = 1 + len(example.predictions)
    rows, cols = example.reference.shape
    shape = rows * example.aspect / cols
    width = 10.5 / max(count, 3)
    height = width * min(max(shape, 0.35), 1.25) + 0.3
    with new_figure(width * count, height, theme) as figure:
        panels = np.atleast_1d(figure.subplots(1, count))
        for axes in panels:
            axes.imshow(example.image, aspect=example.aspect, interpolation="nearest")
            axes.set_axis_off()
        panels[0].set_title("Reference", fontsize=9.5)
        for axes in panels:
            _contours(axes, example.reference, labels, is_reference=True)
        for axes, (row, predicted) in zip(panels[1:], example.predictions.items(), strict=True):
            _contours(axes, predicted, labels, is_reference=False)
            axes.set_title(f"{titles.get(row, row)} · Dice {example.dice[row]:.3f}", fontsize=9.5)
        figure.subplots_adjust(0.004, 0.01, 0.996, 1 - 0.27 / height, wspace=0.03)
        return to_png(figure)


def film_strip(
    strip: FilmStrip, titles: Mapping[str, str], labels: Mapping[int, str], theme: Theme
) -> bytes:
    """Frames from left to right, one line per row: its contours over those of the reference."""
    count, lines = len(strip.numbers), len(strip.predictions)
    rows, cols = strip.images[0].shape[:2]
    width = 10.5 / max(count, 6)
    height = width * min(max(rows * strip.aspect / cols, 0.35), 1.25) + 0.25
    with new_figure(width * count, lines * height + 0.2, theme) as figure:
        grid = figure.subplots(lines, count, squeeze=False)
        for line, (row, masks) in zip(grid, strip.predictions.items(), strict=True):
            for place, axes in enumerate(line):
                _film_frame(axes, strip, place, masks[place], labels)
            name = f"{titles.get(row, row)} · Dice {strip.dice[row]:.3f}"
            line[0].set_title(name, fontsize=9)
        for axes, number in zip(grid[-1], strip.numbers, strict=True):
            text = f"frame {number}" if number else "frame 0 (shown)"
            axes.text(
                0.5, -0.02, text, transform=axes.transAxes, ha="center", va="top", fontsize=8.5
            )
        bottom = 0.2 / (lines * height + 0.2)
        figure.subplots_adjust(
            0.004, bottom, 0.996, 1 - 0.22 / (lines * height), wspace=0.03, hspace=0.25 / height
        )
        return to_png(figure)


def _film_frame(
    axes: Axes, strip: FilmStrip, place: int, mask: np.ndarray, labels: Mapping[int, str]
) -> None:
    axes.imshow(strip.images[place], aspect=strip.aspect, interpolation="nearest")
    axes.set_axis_off()
    if (reference := strip.reference[place]) is not None:
        _contours(axes, reference, labels, is_reference=True)
    _contours(axes, mask, labels, is_reference=False)


def _contours(
    axes: Axes, mask: np.ndarray, labels: Mapping[int, str], *, is_reference: bool
) -> None:
    for number, value in enumerate(labels):
        inside = np.pad((mask == value).astype(float), 1)
        if not inside.any():
            continue
        colour = REFERENCE if is_reference else CLASS_COLOURS[number % len(CLASS_COLOURS)]
        rows, cols = (np.arange(size) - 1 for size in inside.shape)
        axes.contour(
            *(cols, rows, inside),
            levels=[0.5],
            colors=[colour],
            linewidths=1.2 if is_reference else 1.7,
            linestyles="dashed" if is_reference else "solid",
        )
    axes.set_xlim(-0.5, mask.shape[1] - 0.5)
    axes.set_ylim(mask.shape[0] - 0.5, -0.5)


def learning_curves(panels: Mapping[str, Curves], theme: Theme) -> bytes:
    """One panel per group of logged figures; `panels[title][line]` has "x" and "y"."""
    with new_figure(10.5, 3.2, theme) as figure:
        grid = np.atleast_1d(figure.subplots(1, len(panels)))
        colours = (theme.adapted, theme.zero_shot, *theme.others)
        for axes, (title, lines) in zip(grid, panels.items(), strict=True):
            for (name, line), colour in zip(lines.items(), colours, strict=False):
                style = "-" if len(line["x"]) > 1 else "o"
                axes.plot(line["x"], line["y"], style, color=colour, label=name)
            axes.set_title(title)
            axes.set_xlabel("step")
            axes.legend(loc="best", fontsize=8.5)
            quiet(axes, grid="y")
        figure.tight_layout(w_pad=2.2)
        return to_png(figure)


def robustness(
    found: Mapping[str, Mapping[str, object]], titles: Mapping[str, str], theme: Theme
) -> bytes:
    """Dice against box jitter and against the number of clicks, mean and standard deviation."""
    with new_figure(10.5, 3.4, theme) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        for axes, key, title, label in (
            (
                left,
                "box_jitter",
                "Careless boxes",
                "noise on each side, standard deviation in box lengths",
            ),
            (right, "clicks", "More clicks", "number of clicks"),
        ):
            x = np.asarray(found[key]["x"], dtype=float)
            rows = found[key]["rows"]
            assert isinstance(rows, Mapping)
            for number, (row, curve) in enumerate(rows.items()):
                mean, spread = np.asarray(curve["dice"]), np.asarray(curve["spread"])
                colour = theme.colour(row, number)
                axes.plot(x, mean, "o-", color=colour, label=titles.get(row, row), markersize=5)
                low, high = np.clip(mean - spread, 0, 1), np.clip(mean + spread, 0, 1)
                axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
            axes.set_title(title)
            axes.set_xlabel(label)
            axes.set_xticks(x)
            quiet(axes, grid="y")
        left.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        left.set_ylabel("Dice")
        left.set_ylim(0, 1.02)
        right.legend(loc="lower right", fontsize=9)
        figure.tight_layout(w_pad=2.2)
        return to_png(figure)
