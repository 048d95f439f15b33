"""The pictures of a report, one file each, and the table of their names.

A new picture is one file with a function from a `Scene` to a figure, or to None where there is nothing to
draw, one line here, and its caption in each language.
"""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure

from hpcbench.report.plots.accuracy import draw_accuracy
from hpcbench.report.plots.communication import draw_communication
from hpcbench.report.plots.epochtime import draw_epoch_time
from hpcbench.report.plots.learning import draw_learning
from hpcbench.report.plots.life import draw_life
from hpcbench.report.plots.limits import draw_limits
from hpcbench.report.plots.loss import draw_loss
from hpcbench.report.plots.panels import draw_panels_of
from hpcbench.report.plots.pareto import draw_pareto
from hpcbench.report.plots.phases import draw_phases
from hpcbench.report.plots.prediction import draw_prediction
from hpcbench.report.plots.scaling import draw_scaling
from hpcbench.report.plots.scene import Scene
from hpcbench.report.plots.staleness import draw_staleness
from hpcbench.report.plots.throughput import draw_throughput

PICTURES: dict[str, Callable[[Scene], Figure | None]] = {
    "panels": draw_panels_of,
    "throughput": draw_throughput,
    "accuracy": draw_accuracy,
    "learning": draw_learning,
    "loss": draw_loss,
    "epochtime": draw_epoch_time,
    "communication": draw_communication,
    "phases": draw_phases,
    "time": draw_life,
    "scaling": draw_scaling,
    "pareto": draw_pareto,
    "staleness": draw_staleness,
    "ceilings": draw_limits,
    "prediction": draw_prediction,
}
