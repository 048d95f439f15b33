"""The pictures of a report, one file each, and the table of their names.

A new picture is one file with a function from a `Scene` to a figure, or to None where there is nothing to
draw, and one line here.
"""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure

from hpcbench.report.plots.accuracy import draw_accuracy
from hpcbench.report.plots.loss import draw_loss
from hpcbench.report.plots.phases import draw_phases
from hpcbench.report.plots.scene import Scene
from hpcbench.report.plots.throughput import draw_throughput

PICTURES: dict[str, Callable[[Scene], Figure | None]] = {
    "throughput": draw_throughput,
    "accuracy": draw_accuracy,
    "loss": draw_loss,
    "phases": draw_phases,
}
