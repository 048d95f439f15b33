"""The common look of all pictures: colours, sizes, names, fonts with Chinese characters, and files that
are reproducible byte by byte.
"""

from __future__ import annotations

import os
import re
import textwrap
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hpcbench.errors import input_error
from hpcbench.report.report_files import replace_file

FONT_VARIABLE = "HPCBENCH_FONT"
FONT_ADVICE = "Install one (Debian: fonts-noto-cjk; else Source Han Sans or WenQuanYi), or name one in "
CHINESE_FONT_FAMILIES = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN",
    "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Microsoft YaHei", "SimHei", "PingFang SC",
    "Hiragino Sans GB",
    "Heiti SC", "AR PL UMing CN", "Droid Sans Fallback",
)  # fmt: skip
# The same fonts as files.
CHINESE_FONT_FILES = (
    "NotoSansCJK-Regular",
    "NotoSansSC-Regular",
    "SourceHanSans.*Regular",
    "wqy-",
    "msyh",
    "simhei",
    "PingFang",
)


@dataclass(frozen=True)
class PlotFont:
    """A family of fonts, and its file where matplotlib does not know it by itself."""

    family: str
    file: str | None = None

    def load(self) -> None:
        """Make it known to matplotlib in this process, once."""
        if self.file and self.family not in {font.name for font in font_manager.fontManager.ttflist}:
            bold = Path(self.file.replace("-Regular", "-Bold"))  # of titles
            for file in {Path(self.file), bold} if bold.is_file() else {Path(self.file)}:
                font_manager.fontManager.addfont(file)


def chinese_font(environment: Mapping[str, str] = os.environ) -> PlotFont | None:
    """Return a font with Chinese signs; None where there is none.

    HPCBENCH_FONT names a file or a family. Raises InputError where that is no font.
    """
    named = environment.get(FONT_VARIABLE)
    if named:
        return _font_named_by_user(named)
    installed = _known_families()
    found = next((family for family in CHINESE_FONT_FAMILIES if family in installed), None)
    return PlotFont(found) if found else _font_unknown_to_matplotlib()


def _known_families() -> set[str]:
    return {font.name for font in font_manager.fontManager.ttflist}


def _font_of_file(path: Path) -> PlotFont:
    return PlotFont(str(font_manager.FontProperties(fname=path).get_name()), str(path))


def _font_unknown_to_matplotlib() -> PlotFont | None:
    """Return a font that matplotlib, which keeps a list from its first start, does not know yet."""
    files = sorted(font_manager.findSystemFonts())
    matching = (
        file for pattern in CHINESE_FONT_FILES for file in files if re.search(pattern, Path(file).name)
    )
    first = next(matching, None)
    return _font_of_file(Path(first)) if first else None


def _font_named_by_user(named: str) -> PlotFont:
    path = Path(named).expanduser()
    if path.is_file():
        try:
            return _font_of_file(path)
        except (RuntimeError, OSError) as error:
            raise input_error("not a font file", key=FONT_VARIABLE, found=named) from error
    if named not in _known_families():
        raise input_error(
            "no such font",
            key=FONT_VARIABLE,
            found=named,
            allowed="a font file, or the family of an installed font",
        )
    return PlotFont(named)


def needs_no_chinese_font(text: str) -> bool:
    """Say whether the font of matplotlib has all signs of a text, as far as that can be said from outside."""
    return all(ord(sign) < 0x2E80 for sign in text)


# Okabe and Ito (2008), "Color Universal Design"; their yellow is too pale for lines on white.
BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK = (
    "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000",
)  # fmt: skip
COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK)
GREY = "#8C8C8C"

LONGEST_NAME = 60
CHARACTER_IN = 0.078  # mean width of a character at the size of names, in inches
PLOT_IN = 6.5  # width of what is drawn, without names
PNG_DPI = 130
WIDEST_LEGEND_LINE = 1.6  # line of a legend, in points

MATPLOTLIB_SETTINGS: Any = {
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
def drawing_style(further_font: PlotFont | None = None) -> Iterator[None]:
    """Draw inside this with our settings, whatever the user's matplotlibrc says.

    `further_font` is used for the signs that the first font does not have.
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(MATPLOTLIB_SETTINGS)
        if further_font is not None:
            further_font.load()
            mpl.rcParams["font.family"] = [MATPLOTLIB_SETTINGS["font.family"], further_font.family]
        yield


def new_figure(width_in: float, height_in: float) -> Figure:
    """Return an empty figure."""
    return Figure(figsize=(width_in, height_in), layout="constrained")


def set_title(drawn: Figure, title: str) -> None:
    """Give a figure a title that fits its width."""
    lines = textwrap.wrap(title, max(20, int(drawn.get_figwidth() / (CHARACTER_IN * 1.25))))
    drawn.suptitle("\n".join(lines), fontsize=11, fontweight="bold")


def shorten_name(name: str) -> str:
    """Return a name as pictures show it: a very long one loses its middle."""
    if len(name) <= LONGEST_NAME:
        return name
    half = (LONGEST_NAME - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def names_width_in(names: list[str]) -> float:
    """Return the room that the longest name takes, in inches."""
    return max((_text_columns(shorten_name(name)) for name in names), default=0) * CHARACTER_IN


def _text_columns(text: str) -> int:
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
        line.set_linewidth(min(line.get_linewidth(), WIDEST_LEGEND_LINE))
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(shorten_name(name))


def save_figure(drawn: Figure, path: Path) -> list[Path]:
    """Write a figure as PNG and SVG, each whole or not at all; return the files."""
    options: dict[str, dict[str, Any]] = {"png": {"dpi": PNG_DPI}, "svg": {"metadata": {"Date": None}}}
    targets = {ending: path.with_name(f"{path.name}.{ending}") for ending in options}
    for ending, target in targets.items():
        replace_file(target, partial(drawn.savefig, format=ending, **options[ending]))
    return list(targets.values())
