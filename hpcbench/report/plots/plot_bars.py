"""Horizontal bars, one for each experiment, best first: shared by several pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from hpcbench.report.plots.plot_style import PLOT_IN, names_width_in, new_figure, shorten_name
from hpcbench.report.table_cells import format_number

BAR_ROW_IN = 0.32
LEGIBLE_SHARE = 0.05  # of the width: a narrower segment has no room for its figure


@dataclass(frozen=True)
class BarPart:
    """A part of stacked bars: how it is called and how it looks."""

    label: str
    colour: str
    ink: str = "black"


def stacked_bars(
    names: Sequence[str], parts: Mapping[str, BarPart], lengths: Sequence[Mapping[str, float]],
    label: str,
    *, unit: str = "", whole: float | None = None,
) -> Figure:  # fmt: skip
    """Draw stacked bars with their sums behind them; `whole` is where the axis ends (100 for shares)."""
    drawn = new_figure(PLOT_IN + names_width_in(list(names)) + 1.2, 1.7 + BAR_ROW_IN * len(names))
    axes = drawn.add_subplot()
    end = whole or 1.14 * max(sum(each.values()) for each in lengths)
    for place, each in enumerate(lengths):
        draw_stacked_bar(axes, place, each, parts, legible=LEGIBLE_SHARE * end)
        if whole is None:
            axes.text(
                sum(each.values()),
                place,
                f" {format_number(sum(each.values()))}{unit}",
                va="center",
                fontsize=8,
            )
    axes.set_xlim(0, end)
    axes.set_xlabel(label)
    label_rows(axes, names)
    used = [name for name in parts if any(each.get(name) for each in lengths)]
    handles = [Patch(color=parts[name].colour, label=parts[name].label) for name in used]
    drawn.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)), frameon=False)
    return drawn


def draw_stacked_bar(
    axes: Any, place: int, lengths: Mapping[str, float], parts: Mapping[str, BarPart], *, legible: float
) -> None:
    """Draw one stacked bar; parts wider than `legible` carry their figure."""
    left = 0.0
    for name, part in parts.items():
        length = lengths.get(name, 0.0)
        axes.barh(place, length, left=left, height=0.68, color=part.colour, edgecolor="white", linewidth=0.5)
        if length > legible:
            text = format_number(length, digits=2)
            axes.text(left + length / 2, place, text, va="center", ha="center", color=part.ink, fontsize=8)
        left += length


def label_rows(axes: Axes, names: Sequence[str]) -> None:
    """Write the names beside their rows, the first at the top."""
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), [shorten_name(name) for name in names])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="0.9")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
