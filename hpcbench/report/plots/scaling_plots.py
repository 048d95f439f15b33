"""Speed-up over devices, and throughput against accuracy."""

from __future__ import annotations

from collections import defaultdict

from matplotlib.figure import Figure

from hpcbench.analysis.figure_registry import ReportRow
from hpcbench.report.plots.plot_style import COLOURS, GREY, PLOT_IN, name_legend, names_width_in, new_figure
from hpcbench.report.scenes import Scene

SCALING_MARKERS = "osD^vPX"


def draw_scaling(scene: Scene) -> Figure | None:
    """Draw a line for each way of training; None where no run on several devices has a reference on one."""
    rows = [row for row in scene.rows if row.get("speed_up") is not None]
    if not any(row["devices"] > 1 for row in rows):
        return None
    lines = _scaling_lines(rows)
    names = [name for name, _ in lines]
    drawn = new_figure(PLOT_IN + names_width_in(names) + 0.8, 4.4)
    axes = drawn.add_subplot()
    most = max(row["devices"] for row in rows)
    (ideal,) = axes.plot([1, most], [1, most], color=GREY, linestyle="--", linewidth=1)
    handles = []
    for place, (_, members) in enumerate(lines):
        x, y = [row["devices"] for row in members], [row["speed_up"] for row in members]
        colour, marker = (
            COLOURS[place % len(COLOURS)],
            SCALING_MARKERS[(place + place // len(COLOURS)) % len(SCALING_MARKERS)],
        )
        (line,) = axes.plot(x, y, color=colour, marker=marker, markersize=6, linewidth=1.4)
        handles.append(line)
    axes.set_xlabel(scene.language.text("Devices"))
    axes.set_ylabel(scene.language.text("Speed-up against one device"))
    axes.set_xticks(sorted({1, *(row["devices"] for row in rows)}))
    axes.set_xlim(0.8, most + 0.2)
    axes.set_ylim(0, max(most, *(row["speed_up"] for row in rows)) * 1.06)
    axes.grid(color="0.92")
    name_legend(axes, [ideal, *handles], [scene.language.text("ideal"), *names])
    return drawn


def _scaling_lines(rows: list[ReportRow]) -> list[tuple[str, list[ReportRow]]]:
    """Return the rows that differ in their devices only, as lines; what stands alone is a line of its own."""
    alike: dict[tuple[object, ...], list[ReportRow]] = defaultdict(list)
    for row in rows:
        what = ("strategy", "backend", "model", "precision", "cache", "scaling")
        key = tuple(row[name] for name in what) if row["devices"] > 1 else (row["experiment"],)
        alike[key].append(row)
    lines = []
    for members in alike.values():
        members.sort(key=lambda row: row["devices"])
        several = len({row["devices"] for row in members}) == len(members) > 1
        for line in [members] if several else [[row] for row in members]:
            first = line[0]
            name = (
                first["experiment"]
                if len(line) == 1
                else " ".join(filter(None, (first["strategy"], first["backend"])))
            )
            lines.append((name, line))
    return lines


PARETO_MARKERS = "osD^vPX"
MOST_POINTS = len(COLOURS) * len(PARETO_MARKERS)
LEGEND_ROW_IN = 0.19


def draw_pareto(scene: Scene) -> Figure | None:
    """Draw a point for each run, and the front; one point alone says nothing."""
    rows = [r for r in scene.rows if r["throughput_samples_s"] is not None and r["best_acc_pct"] is not None]
    if not 2 <= len(rows) <= MOST_POINTS:
        return None
    names = [row["experiment"] for row in rows]
    drawn = new_figure(
        PLOT_IN + names_width_in(names) + 0.8, max(4.2, 1 + LEGEND_ROW_IN * (len(rows) + 1))
    )  # fmt: skip
    axes = drawn.add_subplot()
    front = _pareto_front(rows)
    (line,) = axes.plot(
        [r["throughput_samples_s"] for r in front], [r["best_acc_pct"] for r in front],
        color=GREY, linestyle=":",
        linewidth=1.4, zorder=1,
    )  # fmt: skip
    points = []
    for place, row in enumerate(rows):
        colour, marker = COLOURS[place % len(COLOURS)], PARETO_MARKERS[place // len(COLOURS)]
        x, y = row["throughput_samples_s"], row["best_acc_pct"]
        points += axes.plot(
            [x], [y], color=colour, marker=marker, linestyle="", markersize=8, markeredgecolor="white"
        )
    axes.set_xlabel(scene.language.text("Throughput ({unit}/s)", unit=scene.unit))
    axes.set_ylabel(scene.language.text("Best validation accuracy (%)"))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.set_xlim(left=0)
    axes.margins(y=0.12)
    axes.grid(color="0.92")
    shown = [line] if len(front) > 1 else []  # a point alone has no line
    name_legend(axes, [*points, *shown], [*names, *(scene.language.text("Pareto-optimal") for _ in shown)])
    return drawn


def _pareto_front(rows: list[ReportRow]) -> list[ReportRow]:
    """Return the rows that no other beats in both, slowest first."""
    front: list[ReportRow] = []
    for row in sorted(rows, key=lambda r: (-r["throughput_samples_s"], -r["best_acc_pct"])):
        if not front or row["best_acc_pct"] > front[-1]["best_acc_pct"]:
            front.append(row)
    return front[::-1]
