"""The cells of the ranking as text, its columns that have content, and the escaping of text for Markdown.

Imports no pandas.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from hpcbench.analysis.figure_registry import FIGURES, Figure, ReportRow
from hpcbench.audit.audit_findings import Severity
from hpcbench.audit.rule_table import ALL_RULES
from hpcbench.catalog import CATALOG
from hpcbench.report.translations import N_, Language

EMPTY_CELL = "–"
COLUMN_TITLES = {
    "rank": N_("rank"),
    "experiment": N_("experiment"),
    "folder": N_("results"),
    "throughput_samples_s": N_("{unit}/s ±95 %"),
    "repeats": N_("n"),
    "throughput_per_device": N_("{unit}/s/device"),
    "best_acc_pct": N_("best acc %"),
    "final_acc_pct": N_("final acc %"),
    "epoch_time_s": N_("epoch s"),
    "total_time_s": N_("total s"),
    "peak_mem_mb": N_("peak MB"),
    "data_wait_pct": N_("data wait %"),
    "exposed_comm_pct": N_("exposed comm %"),
    "ranks": N_("ranks"),
    "batch_per_rank": N_("batch"),
    "limit": N_("limit"),
    "findings": N_("findings"),
    "trusted": N_("trusted"),
    "class": N_("class"),
    "strategy": N_("strategy"),
    "backend": N_("backend"),
    "model": N_("model"),
    "dataset": N_("data set"),
    "devices": N_("devices"),
    "nodes": N_("nodes"),
    "global_batch": N_("global batch"),
    "precision": N_("precision"),
    "cache": N_("cache"),
    "steps_per_epoch": N_("steps/epoch"),
    "speed_up": N_("speed-up"),
    "scaling": N_("scaling"),
    "efficiency_pct": N_("efficiency %"),
    "time_to_acc_s": N_("s to accuracy"),
    "cost_per_epoch": N_("cost/epoch"),
    "predicted_samples_s": N_("predicted {unit}/s"),
    "of_predicted_pct": N_("% of predicted"),
    "mfu_pct": N_("MFU %"),
    "step_p50_s": N_("step p50 s"),
    "step_p90_s": N_("step p90 s"),
    "step_p99_s": N_("step p99 s"),
    "slowest_rank_ratio": N_("slowest/median rank"),
    "joules_per_sample": N_("J/{unit}"),
}  # key of a column -> its title
METRIC_TITLES = {
    "train_loss": N_("Training loss"),
    "acc_pct": N_("Test accuracy (%)"),
    "throughput_samples_s": N_("Throughput ({unit}/s)"),
    "peak_mem_mb": N_("Peak memory (MB)"),
    "step_loss": N_("Training loss by step"),
}  # key of a curve -> its axis
STATE_NAMES = {
    "finished": N_("finished"),
    "failed": N_("failed"),
    "interrupted": N_("interrupted"),
    "unfinished": N_("unfinished"),
    "not started": N_("not started"),
    "unreadable": N_("unreadable"),
}  # `RecordedState` -> name
PHASE_NAMES = {
    "data_wait": N_("waiting for data"),
    "forward_backward": N_("forward and backward"),
    "exchange": N_("exchange after backward"),
    "update": N_("update"),
    "other": N_("other"),
}  # of the counted time
LIFETIME_NAMES = {
    "startup": N_("start-up"),
    "train": N_("training"),
    "evaluation": N_("evaluation"),
    "check": N_("checks"),
    "checkpoint": N_("checkpoints"),
    "other": N_("other"),
}  # parts of the time of a process
RANKING_NOTE = N_(
    "`n` is the number of finished repeats, ± half of the 95 % confidence interval; a range of ranks "
    "is a tie. Ranks hold inside a class only. What every column and picture means stands in docs/report.md."
)
UNTRUSTED_MARK = "✗"  # instead of a rank: an error was found


def figure_title(figure: Figure, language: Language, unit: str) -> str:
    """Return the title of a figure's column; `unit` is what a sample is called."""
    return language.text(COLUMN_TITLES[figure.key], unit=unit)


def format_number(value: float | None, *, digits: int = 3) -> str:
    """Write a number with at least `digits` significant digits, whole ones never cut, thousands apart."""
    if value is None:
        return EMPTY_CELL
    whole_digits = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    return f"{value:,.{max(0, digits - whole_digits)}f}"


def cell_text(figure: Figure, row: Mapping[str, Any]) -> str:
    """Return the text of a figure in a row, with the digits that its entry in the registry names."""
    value = row.get(figure.key)
    match figure.digits:
        case "rank":
            return rank_cell(row)
        case "throughput":
            return throughput_cell(row)
        case "findings":
            return findings_cell(row)
    if value is None:
        return EMPTY_CELL
    match figure.digits:
        case "sig3":
            return format_number(value)
        case "fix1" | "fix2":
            return f"{value:,.{figure.digits[-1]}f}"
    return str(value)


def rank_cell(row: Mapping[str, Any]) -> str:
    """Write a rank, or the ranks that a tie spans."""
    if row["rank"] is None:
        return UNTRUSTED_MARK if row["trusted"] == "no" else EMPTY_CELL
    low, high = row["rank"], row["rank_high"]
    return str(low) if low == high else f"{low}–{high}"


def findings_cell(row: Mapping[str, Any]) -> str:
    """Write how many findings there are of each severity; the findings stand below the table."""
    severity_of = {rule.code: rule.severity for rule in ALL_RULES}
    severities = Counter(severity_of[code] for code in (row["findings"] or "").split() if code in severity_of)
    counts = ((severities[severity], severity) for severity in Severity)
    return ", ".join(f"{n} {severity}{'s' if n > 1 else ''}" for n, severity in counts if n)


def throughput_cell(row: Mapping[str, Any]) -> str:
    """Write a throughput with half the width of its confidence interval."""
    mean, high = row["throughput_samples_s"], row["throughput_ci_high"]
    return (
        format_number(mean)
        if mean is None or high is None
        else f"{format_number(mean)} ±{format_number(high - mean, digits=2)}"
    )


def columns_with_content(rows: Sequence[ReportRow]) -> list[Figure]:
    """Return the figures of the table in Markdown and on a terminal that any of the rows has."""
    return [
        figure
        for figure in FIGURES.values()
        if figure.priority is not None and any(cell_text(figure, row) not in (EMPTY_CELL, "") for row in rows)
    ]


def sample_unit(rows: list[ReportRow]) -> str:
    """Return what a sample is called: `img` where all data sets are images."""
    names = {row["dataset"] for row in rows if row["dataset"] is not None}
    units = {CATALOG.datasets[name].unit if name in CATALOG.datasets else "samples" for name in names}
    return units.pop() if len(units) == 1 else "samples"


def rows_by_class(rows: list[ReportRow]) -> dict[str | None, list[ReportRow]]:
    """Return the rows of each class, in the order of the ranking; None holds unreadable runs."""
    classes: dict[str | None, list[ReportRow]] = {}
    for row in rows:
        classes.setdefault(row["class"], []).append(row)
    return classes


def escape_markdown(text: str) -> str:
    """Return a text so that Markdown shows it as it is, whatever stands in it."""
    flat = " ".join(text.split())
    marked = re.sub(r"([\\`*\[\]|$~#])", r"\\\1", flat)
    # Between letters and digits an underscore means nothing; names are full of them.
    marked = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", marked)
    return html.escape(marked, quote=False)
