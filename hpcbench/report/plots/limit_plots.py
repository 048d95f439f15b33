"""Distance of runs to their ceilings, and predicted against measured step times."""

from __future__ import annotations

from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from hpcbench.analysis.limit_analysis import MeasuredVsPredicted
from hpcbench.ceilings.step_prediction import LimitingResource, StepPrediction
from hpcbench.report.limit_tables import LIMIT_NAMES
from hpcbench.report.plots.plot_bars import BAR_ROW_IN, label_rows
from hpcbench.report.plots.plot_style import (
    BLACK,
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    ORANGE,
    PLOT_IN,
    PURPLE,
    SKY,
    VERMILION,
    name_legend,
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


PREDICTION_MARKERS = "osD^vPX"
MOST_PREDICTIONS = len(COLOURS) * len(PREDICTION_MARKERS)
ERROR_BAND = 0.25  # the error that predictions are held to


def draw_prediction(scene: Scene) -> Figure | None:
    """Draw both; None where nothing was predicted."""
    found = [
        standing
        for row in scene.rows
        if (standing := scene.standings.get(row["experiment"])) and standing.of_predicted
    ][:MOST_PREDICTIONS]
    if not found:
        return None
    names = [standing.experiment for standing in found]
    projected = any(standing.projected for standing in found)
    drawn = new_figure((9.6 if projected else 5.4) + names_width_in(names) + 0.8, 4.6)
    panels = drawn.subplots(1, 2 if projected else 1, squeeze=False)[0]
    handles = [_draw_point(panels[0], place, standing) for place, standing in enumerate(found)]
    _draw_diagonal(panels[0], found, scene)
    if projected:
        _draw_projection(panels[1], found, scene)
    dashed = Line2D([], [], color=GREY, linestyle="--")
    more = [(dashed, scene.language.text("extrapolated"))] if projected else []
    name_legend(panels[-1], [*handles, *(line for line, _ in more)], [*names, *(label for _, label in more)])
    return drawn


def _point_look(place: int) -> tuple[str, str]:
    return COLOURS[place % len(COLOURS)], PREDICTION_MARKERS[
        (place + place // len(COLOURS)) % len(PREDICTION_MARKERS)
    ]


def _draw_point(axes: Axes, place: int, standing: MeasuredVsPredicted) -> Line2D:
    predicted, (colour, marker) = standing.predicted, _point_look(place)
    assert isinstance(predicted, StepPrediction) and standing.step_s
    (line,) = axes.plot(
        [1000 * standing.step_s], [1000 * predicted.step_s], color=colour, marker=marker, linestyle="",
        markersize=7, markerfacecolor="white" if predicted.extrapolated else colour,
    )  # fmt: skip
    return line


def _draw_diagonal(axes: Axes, found: list[MeasuredVsPredicted], scene: Scene) -> None:
    steps = [1000 * s.step_s for s in found if s.step_s]
    steps += [1000 * s.predicted.step_s for s in found if isinstance(s.predicted, StepPrediction)]
    ends = [0.7 * min(steps), 1.4 * max(steps)]
    axes.plot(ends, ends, color=BLACK, linewidth=1, zorder=0)
    low, high = [end * (1 - ERROR_BAND) for end in ends], [end * (1 + ERROR_BAND) for end in ends]
    axes.fill_between(ends, low, high, color="0.9", zorder=-1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:,g}")
        axis.set_minor_formatter(lambda value, _: f"{value:,g}" if f"{value:e}"[0] in "25" else "")
    axes.set_xlabel(scene.language.text("Measured step (ms)"))
    axes.set_ylabel(
        scene.language.text("Predicted step (ms); grey: within {pct} %", pct=f"{100 * ERROR_BAND:.0f}")
    )


def _draw_projection(axes: Axes, found: list[MeasuredVsPredicted], scene: Scene) -> None:
    """Draw predictions over ranks: solid where all ceilings were measured, dashed where they were not."""
    for place, standing in enumerate(found):
        colour, marker = _point_look(place)
        points = [
            (each.ranks, each.prediction.samples_s, each.prediction.extrapolated)
            for each in standing.projected
        ]
        for (x, y, before), (next_x, next_y, after) in pairwise(points):
            axes.plot(
                [x, next_x],
                [y, next_y],
                color=colour,
                linewidth=1.3,
                linestyle="--" if before or after else "-",
            )
        if points and standing.samples_s:
            axes.plot([standing.spec.ranks], [standing.samples_s], color=colour, marker=marker, linestyle="")
    ranks = sorted({each.ranks for standing in found for each in standing.projected})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ranks, [str(n) for n in ranks])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.set_xlabel(scene.language.text("ranks"))
    axes.set_ylabel(scene.language.text("Throughput ({unit}/s)", unit=scene.unit))
    axes.grid(color="0.92")
