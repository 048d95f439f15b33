"""Predicted against measured step times, and the prediction for more ranks."""

from __future__ import annotations

from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hpcbench.analysis.limit_analysis import MeasuredVsPredicted
from hpcbench.ceilings.step_prediction import StepPrediction
from hpcbench.report.plots.plot_style import BLACK, COLOURS, GREY, name_legend, names_width_in, new_figure
from hpcbench.report.scenes import Scene

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
