"""The summary: every ranked run of a report in one bar chart, class by class."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from hpcbench.report.cells import Row, by_class, throughput, unit_of
from hpcbench.report.plots.bars import name_rows
from hpcbench.report.plots.style import COLOURS, GREY, PLOT_IN, figure, names_width_in, shown
from hpcbench.report.words import Words

ROW_IN = 0.26
MOST = 120  # bars; more are no picture any more: `ranking.csv` has them all


def draw_summary(rows: Sequence[Row], title: str, words: Words) -> Figure | None:
    """Draw the throughput of all rows, one colour a class, grey where a row takes no rank."""
    known = [row for row in rows if row["throughput_samples_s"] is not None][:MOST]
    if not known:
        return None
    classes = list(by_class(known))
    colours = {label: COLOURS[place % len(COLOURS)] for place, label in enumerate(classes)}
    names = [row["experiment"] for row in known]
    drawn = figure(
        PLOT_IN + names_width_in(names) + 1.4, 1.7 + ROW_IN * len(known) + 0.2 * len(classes),
        f"{words.captions['summary']} – {title}",
    )  # fmt: skip
    axes = drawn.add_subplot()
    for place, row in enumerate(known):
        trusted = row["rank"] is not None
        axes.barh(
            place, row["throughput_samples_s"], height=0.7,
            color=colours[row["class"]] if trusted else "#C8C8C8", alpha=0.85,
        )  # fmt: skip
        axes.text(
            1.01, place, throughput(row), transform=axes.get_yaxis_transform(), va="center", fontsize=8,
            color="black" if trusted else GREY,
        )  # fmt: skip
        if place and row["class"] != known[place - 1]["class"]:
            axes.axhline(place - 0.5, color="0.6", linewidth=0.7)
    axes.set_xlabel(words.labels["throughput_samples_s"].format(unit=unit_of(known)))
    name_rows(axes, names)
    handles = [Patch(color=colours[label], alpha=0.85, label=shown(str(label))) for label in classes]
    if any(row["rank"] is None for row in known):
        handles.append(Patch(color="#C8C8C8", label=words.labels["no_rank"]))
    drawn.legend(handles=handles, loc="outside lower center", ncols=min(2, len(handles)), frameon=False)
    return drawn
