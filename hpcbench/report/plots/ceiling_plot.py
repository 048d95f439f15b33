"""How much of its predicted throughput each run reaches, and of single ceilings."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from hpcbench.analysis.limit_analysis import MeasuredVsPredicted
from hpcbench.ceilings.step_prediction import LimitingResource
from hpcbench.report.limit_tables import LIMIT_NAMES
from hpcbench.report.plots.plot_bars import BAR_ROW_IN, label_rows
from hpcbench.report.plots.plot_style import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PLOT_IN,
    PURPLE,
    SKY,
    VERMILION,
    names_width_in,
    new_figure,
)
from hpcbench.report.scenes import Scene
from hpcbench.report.table_cells import format_number

LIMIT_COLOURS = {
    LimitingResource.COMPUTE: BLUE, LimitingResource.LINK: VERMILION, LimitingResource.LATENCY: ORANGE,
    LimitingResource.INPUT: GREEN, LimitingResource.EVALUATION: PURPLE, LimitingResource.MEMORY: SKY,
}  # fmt: skip


def draw_limits(scene: Scene) -> Figure | None:
    """Draw measured over predicted throughput, coloured by what binds; None where nothing was predicted."""
    found = [
        (row, scene.standings[row["experiment"]])
        for row in scene.rows
        if row["experiment"] in scene.standings and scene.standings[row["experiment"]].of_predicted
    ]
    if not found:
        return None
    names = [row["experiment"] for row, _ in found]
    drawn = new_figure(PLOT_IN + names_width_in(names) + 1.0, 1.9 + BAR_ROW_IN * len(names))
    axes = drawn.add_subplot()
    for place, (_, standing) in enumerate(found):
        pct = 100 * (standing.of_predicted or 0.0)
        colour = LIMIT_COLOURS[standing.limit or LimitingResource.COMPUTE]
        axes.barh(place, pct, height=0.62, color=colour, alpha=0.55 if _extrapolated(standing) else 1.0)
        axes.text(pct, place, f" {format_number(pct)} %", va="center", fontsize=8)
        for ceiling, marker in ((standing.compute_samples_s, "D"), (standing.input_samples_s, "^")):
            if ceiling and standing.samples_s:
                axes.plot(100 * standing.samples_s / ceiling, place, marker=marker, markersize=5,
                          markerfacecolor="white", markeredgecolor=BLACK, linestyle="")  # fmt: skip
    axes.axvline(100, color=BLACK, linewidth=1)
    axes.set_xlim(0, max(115.0, *(120 * (standing.of_predicted or 0.0) for _, standing in found)))
    axes.set_xlabel(scene.language.text("Measured throughput (% of predicted)"))
    label_rows(axes, names)
    bound = dict.fromkeys(standing.limit or LimitingResource.COMPUTE for _, standing in found)
    handles: list[Patch | Line2D] = [
        Patch(color=LIMIT_COLOURS[each], label=scene.language.text(LIMIT_NAMES[each])) for each in bound
    ]
    handles += [
        Line2D(
            [], [], marker=marker, linestyle="", markerfacecolor="white", markeredgecolor=BLACK, label=label
        )
        for marker, label in (
            ("D", scene.language.text("% of the compute ceiling alone")),
            ("^", scene.language.text("% of the input ceiling alone")),
        )
    ]
    if any(_extrapolated(standing) for _, standing in found):
        handles.append(Patch(color="0.5", alpha=0.55, label=scene.language.text("extrapolated")))
    drawn.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)), frameon=False)
    return drawn


def _extrapolated(standing: MeasuredVsPredicted) -> bool:
    return getattr(standing.predicted, "extrapolated", False)
