"""Communication overhead, and staleness of gradients at a parameter server."""

from __future__ import annotations

import json
from collections import Counter

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hpcbench.analysis.figure_registry import ReportRow
from hpcbench.report.plots.plot_bars import BarPart, stacked_bars
from hpcbench.report.plots.plot_style import (
    BLUE,
    ORANGE,
    PLOT_IN,
    PURPLE,
    VERMILION,
    new_figure,
    shorten_name,
)
from hpcbench.report.scenes import Scene
from hpcbench.runs.events import PHASES

SMALLEST_SHOWN_SHARE = (
    0.005  # of a step; a phase that only looks whether there is something to exchange takes less
)


def draw_communication(scene: Scene) -> Figure | None:
    """Draw the time of a step, mean over counted steps, ranks and repeats; None where no exchange was seen.

    Exposed is what an ablation found, else what follows the backward pass (docs/methodology.md, M7). What
    overlaps with that pass is inside the rest: no phase timer can see it.
    """
    measured = {row["experiment"]: _step_parts_ms(scene, row) for row in scene.rows}
    lengths = {name: parts for name, parts in measured.items() if parts}
    if not any(
        sum(parts.values()) - parts["rest"] > SMALLEST_SHOWN_SHARE * sum(parts.values())
        for parts in lengths.values()
    ):
        return None
    parts = {
        "exchange": BarPart(scene.language.text("exposed exchange"), VERMILION),
        "push": BarPart(scene.language.text("push"), ORANGE),
        "pull": BarPart(scene.language.text("pull"), PURPLE),
        "rest": BarPart(scene.language.text("rest of the step"), "#D0D0D0"),
    }
    overlap = scene.language.text("what overlaps with the backward pass is in the rest")
    label = f"{scene.language.text('Time per step (ms)')}\n{overlap}"
    return stacked_bars(
        list(lengths), parts, list(lengths.values()), label,
        unit=" ms",
    )  # fmt: skip


def _step_parts_ms(scene: Scene, row: ReportRow) -> dict[str, float]:
    """Return the parts of a step in ms; {} where no step counts."""
    runs = scene.of(row, scene.runs)
    steps = float(runs["counted_steps"].sum())
    if not steps:
        return {}
    columns = ["exchange_s", "push_s", "pull_s"]
    exchange, push, pull = (1000 * float(runs[name].fillna(0).sum()) / steps for name in columns)
    step_ms = sum(1000 * float(runs[f"{phase}_s"].sum()) / steps for phase in PHASES)
    exposed = runs["exposed_comm_pct"].dropna()
    if len(exposed) and not push + pull:
        exchange = step_ms * float(exposed.mean()) / 100
    return {
        "exchange": max(0.0, exchange - push - pull),
        "push": push,
        "pull": pull,
        "rest": step_ms - exchange,
    }


HISTOGRAM_IN = 2.1
FEWEST_BINS = 5  # on the axis: 0 alone would be a wall


def draw_staleness(scene: Scene) -> Figure | None:
    """Draw a histogram for each run whose servers recorded it, on common axes."""
    rows = scene.with_values(scene.runs, "staleness")
    if not rows:
        return None
    drawn = new_figure(PLOT_IN + 1, 0.9 + HISTOGRAM_IN * len(rows))
    grid = drawn.subplots(len(rows), 1, sharex=True, sharey=True, squeeze=False)
    told = [_staleness_counts(scene, row) for row in rows]
    grid[0, 0].set_xlim(-0.6, max(FEWEST_BINS - 1, *map(max, told)) + 0.6)
    for axes, row, counts in zip(grid[:, 0], rows, told, strict=True):
        whole = counts.total()
        mean = sum(value * count for value, count in counts.items()) / whole
        axes.bar(list(counts), [100 * count / whole for count in counts.values()], color=BLUE, width=0.8)
        axes.set_title(
            f"{shorten_name(row['experiment'])} – {scene.language.text('mean')} {mean:.3g}",
            fontsize=9,
            loc="left",
        )
        axes.set_ylabel(scene.language.text("Share of updates (%)"))
        axes.grid(axis="y", color="0.92")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    grid[-1, 0].set_xlabel(scene.language.text("Staleness (updates by others since the pull)"))
    return drawn


def _staleness_counts(scene: Scene, row: ReportRow) -> Counter[int]:
    counts: Counter[int] = Counter()
    for text in scene.of(row, scene.runs)["staleness"].dropna():
        counts.update({int(value): count for value, count in json.loads(text).items()})
    return counts
