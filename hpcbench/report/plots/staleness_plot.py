"""How many updates old gradients were when a server applied them."""

from __future__ import annotations

import json
from collections import Counter

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hpcbench.analysis.result_columns import ReportRow
from hpcbench.report.plots.plot_style import BLUE, PLOT_IN, new_figure, shorten_name
from hpcbench.report.scenes import Scene

HISTOGRAM_IN = 2.1
FEWEST_BINS = 5  # on the axis: 0 alone would be a wall


def draw_staleness(scene: Scene) -> Figure | None:
    """Draw a histogram for each run whose servers recorded it, on common axes."""
    rows = scene.with_values(scene.runs, "staleness")
    if not rows:
        return None
    drawn = new_figure(PLOT_IN + 1, 0.9 + HISTOGRAM_IN * len(rows))
    grid = drawn.subplots(len(rows), 1, sharex=True, sharey=True, squeeze=False)
    histograms = [_staleness_counts(scene, row) for row in rows]
    grid[0, 0].set_xlim(-0.6, max(FEWEST_BINS - 1, *map(max, histograms)) + 0.6)
    for axes, row, counts in zip(grid[:, 0], rows, histograms, strict=True):
        update_count = counts.total()
        mean = sum(value * count for value, count in counts.items()) / update_count
        axes.bar(
            list(counts), [100 * count / update_count for count in counts.values()], color=BLUE, width=0.8
        )
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
