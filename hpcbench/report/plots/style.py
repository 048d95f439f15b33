"""How all pictures look: colours for colour-blind eyes too, sizes, names, files that never differ."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hpcbench.report.files import replace_file
from hpcbench.report.plots.fonts import Font

# Okabe and Ito (2008), "Color Universal Design"; their yellow is too pale for lines on white.
BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK = (
    "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000",
)  # fmt: skip
COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK)
GREY = "#8C8C8C"

LONGEST_NAME = 60
CHARACTER_IN = 0.078  # mean width of a character at the size of names, in inches
PLOT_IN = 6.5  # width of what is drawn, without names
DPI = 130
WIDEST = 1.6  # line of a legend, in points

SETTINGS: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same text widths everywhere
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.parse_math": False,  # a name with two $ is a name
    "svg.hashsalt": "hpcbench",  # with it and without a date, the same records give the same bytes
    "svg.fonttype": "path",
}


@contextmanager
def style(further_font: Font | None = None) -> Iterator[None]:
    """Draw inside this with our settings, whatever the user's matplotlibrc says.

    `further_font` is used for the signs that the first font does not have.
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(SETTINGS)
        if further_font is not None:
            further_font.load()
            mpl.rcParams["font.family"] = [SETTINGS["font.family"], further_font.family]
        yield


def figure(width_in: float, height_in: float, title: str) -> Figure:
    """Return an empty figure whose title fits its width."""
    made = Figure(figsize=(width_in, height_in), layout="constrained")
    lines = textwrap.wrap(title, max(20, int(width_in / (CHARACTER_IN * 1.25))))
    made.suptitle("\n".join(lines), fontsize=11, fontweight="bold")
    return made


def shown(name: str) -> str:
    """Return a name as pictures show it: a very long one loses its middle."""
    if len(name) <= LONGEST_NAME:
        return name
    half = (LONGEST_NAME - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def names_width_in(names: list[str]) -> float:
    """Return the room that the longest name takes, in inches."""
    return max((_columns(shown(name)) for name in names), default=0) * CHARACTER_IN


def _columns(text: str) -> int:
    """Return how many narrow characters are as wide as a text."""
    return sum(2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text)


def name_legend(axes: Axes, lines: list[Line2D], names: list[str]) -> None:
    """Put the names beside the axes, in the order given."""
    # Labels are set afterwards: matplotlib drops those that begin with an underscore.
    legend = axes.legend(
        lines,
        ["?"] * len(lines),
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        borderaxespad=0,
    )
    for line in legend.get_lines():
        line.set_linewidth(min(line.get_linewidth(), WIDEST))
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(shown(name))


def save(drawn: Figure, path: Path) -> list[Path]:
    """Write a figure as PNG and SVG, each whole or not at all; return the files."""
    options: dict[str, dict[str, Any]] = {"png": {"dpi": DPI}, "svg": {"metadata": {"Date": None}}}
    targets = {ending: path.with_name(f"{path.name}.{ending}") for ending in options}
    for ending, target in targets.items():
        replace_file(target, partial(drawn.savefig, format=ending, **options[ending]))
    return list(targets.values())
