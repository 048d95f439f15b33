"""How old gradients were when a server applied them."""

from __future__ import annotations

import json
from collections import Counter

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hpcbench.report.cells import Row
from hpcbench.report.plots.scene import Scene
from hpcbench.report.plots.style import BLUE, PLOT_IN, figure, shown

PANEL_IN = 2.1
FEWEST_PLACES = 5  # on the axis: 0 alone would be a wall


def draw_staleness(scene: Scene) -> Figure | None:
    """Draw a histogram for each run whose servers recorded it, on common axes."""
    rows = scene.with_values(scene.runs, "staleness")
    if not rows:
        return None
    drawn = figure(
        PLOT_IN + 1, 0.9 + PANEL_IN * len(rows), f"{scene.words.captions['staleness']} – {scene.title}"
    )
    grid = drawn.subplots(len(rows), 1, sharex=True, sharey=True, squeeze=False)
    told = [_counts(scene, row) for row in rows]
    grid[0, 0].set_xlim(-0.6, max(FEWEST_PLACES - 1, *map(max, told)) + 0.6)
    for axes, row, counts in zip(grid[:, 0], rows, told, strict=True):
        whole = counts.total()
        mean = sum(value * count for value, count in counts.items()) / whole
        axes.bar(list(counts), [100 * count / whole for count in counts.values()], color=BLUE, width=0.8)
        axes.set_title(
            f"{shown(row['experiment'])} – {scene.words.labels['average']} {mean:.3g}", fontsize=9, loc="left"
        )
        axes.set_ylabel(scene.words.labels["updates_pct"])
        axes.grid(axis="y", color="0.92")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    grid[-1, 0].set_xlabel(scene.words.labels["staleness"])
    return drawn


def _counts(scene: Scene, row: Row) -> Counter[int]:
    counts: Counter[int] = Counter()
    for text in scene.of(row, scene.runs)["staleness"].dropna():
        counts.update({int(value): count for value, count in json.loads(text).items()})
    return counts
