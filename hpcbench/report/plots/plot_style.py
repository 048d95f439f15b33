"""The common look of all pictures: colours, sizes, names, fonts with Chinese characters, and files that
are reproducible byte by byte.
"""

from __future__ import annotations

import os
import re
import textwrap
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
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
    "NotoSansCJK-Regular", "NotoSansSC-Regular", "SourceHanSans.*Regular", "wqy-", "msyh", "simhei",
    "PingFang",
)  # fmt: skip


def chinese_font_families(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the families with Chinese characters that matplotlib can use; HPCBENCH_FONT names another one.

    Raises InputError where that variable names neither a font file nor an installed family.
    """
    named = environment.get(FONT_VARIABLE)
    if named:
        return [_font_named_by_user(named)]
    if listed := _listed_families():
        return listed
    added = _add_unlisted_font()
    return _listed_families() or added  # one file may hold several families


def _listed_families() -> list[str]:
    known = font_manager.get_font_names()
    return [family for family in CHINESE_FONT_FAMILIES if family in known]


def _add_font(file: Path) -> str:
    """Make a font known to matplotlib in this process, once; return its family."""
    family = str(font_manager.FontProperties(fname=file).get_name())
    if family not in font_manager.get_font_names():
        bold = file.with_name(file.name.replace("-Regular", "-Bold"))  # of titles
        for each in {file, bold} if bold.is_file() else {file}:
            font_manager.fontManager.addfont(each)
    return family


def _add_unlisted_font() -> list[str]:
    """Add an installed font that is missing in the list which matplotlib keeps from its first start."""
    files = sorted(map(Path, font_manager.findSystemFonts()))
    matching = (file for pattern in CHINESE_FONT_FILES for file in files if re.search(pattern, file.name))
    return [_add_font(file) for file in islice(matching, 1)]


def _font_named_by_user(named: str) -> str:
    path = Path(named).expanduser()
    if path.is_file():
        try:
            return _add_font(path)
        except (RuntimeError, OSError) as error:
            raise input_error("not a font file", key=FONT_VARIABLE, found=named) from error
    if named not in font_manager.get_font_names():
        allowed = "a font file, or the family of an installed font"
        raise input_error("no such font", key=FONT_VARIABLE, found=named, allowed=allowed)
    return named


def can_draw(text: str, families: Sequence[str] = ()) -> bool:
    """Say whether the default font or one of some families has each character of a text."""
    names = (MATPLOTLIB_SETTINGS["font.family"], *families)
    fonts = [font_manager.get_font(font_manager.findfont(name)) for name in names]
    return all(any(font.get_char_index(ord(sign)) for font in fonts) for sign in text if not sign.isspace())


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
def drawing_style(*, chinese: bool = False) -> Iterator[None]:
    """Draw inside this with our settings, whatever the user's matplotlibrc says.

    `chinese` adds fonts for the characters that the default font does not have.
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(MATPLOTLIB_SETTINGS)
        if chinese:
            # A list here falls back for each character; a list in `font.sans-serif` does not.
            mpl.rcParams["font.family"] = [MATPLOTLIB_SETTINGS["font.family"], *chinese_font_families()]
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
