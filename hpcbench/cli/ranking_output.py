"""The ranking and the findings on a terminal of any width.

Imports no pandas: a finished report is printed at once.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from hpcbench.analysis.figure_registry import NUMBER, RANKING_COLUMNS, WHOLE, Figure, ReportRow
from hpcbench.audit.audit_findings import Finding, Severity
from hpcbench.report.table_cells import (
    cell_text,
    columns_with_content,
    figure_title,
    rows_by_class,
    sample_unit,
)
from hpcbench.report.translations import ENGLISH

SHORTEST_NAME_COLUMNS = 8  # columns; no terminal that anybody uses asks for less
CELL_READERS: dict[str, Callable[[str], Any]] = {NUMBER: float, WHOLE: int}


def read_ranking(path: Path) -> list[ReportRow]:
    """Return the rows of `ranking.csv`; what is empty there is None."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            {
                name: CELL_READERS.get(kind, str)(line[name]) if line[name] else None
                for name, kind in RANKING_COLUMNS.items()
            }
            for line in csv.DictReader(file)
        ]


def print_ranking(rows: Sequence[ReportRow], console: Console) -> None:
    """Print the ranked table, one for each class, with as many columns as are wide enough to be read.

    The columns that do not fit are named below.
    """
    left_out: dict[str, None] = {}
    for label, members in rows_by_class(list(rows)).items():
        columns = _fitting_columns(members, console)
        unit = sample_unit(members)
        left_out |= {
            figure_title(c, ENGLISH, unit): None for c in columns_with_content(members) if c not in columns
        }
        console.print(
            Text(label or ENGLISH.text("unreadable"), style="bold"), no_wrap=True, overflow="ellipsis"
        )
        excess = _table_width(_ranking_table(columns, members, console), console) - console.width
        console.print(_ranking_table(columns, members, console, cut=max(0, excess)))
    if left_out:
        told = ENGLISH.text("More columns in ranking.csv: {columns}.", columns=ENGLISH.comma.join(left_out))
        console.print(Text(to_console_encoding(told, console), style="dim"))
    if not rows:
        console.print(Text(ENGLISH.text("No run has written records yet.")))
    if any(row["rank"] != row["rank_high"] for row in rows):
        console.print(
            Text(
                to_console_encoding(
                    ENGLISH.text(
                        "A range of ranks is a tie: no difference inside it is supported (docs/report.md)."
                    ),
                    console,
                )
            )
        )


def _fitting_columns(rows: list[ReportRow], console: Console) -> list[Figure]:
    """Return the most columns that fit; only where none can go any more names are cut."""
    columns = columns_with_content(rows)
    chosen = [column for column in columns if not column.priority]
    for candidate in sorted((c for c in columns if c.priority), key=lambda c: c.priority or 0):
        wider = [column for column in columns if column in chosen or column is candidate]
        if _table_width(_ranking_table(wider, rows, console), console) <= console.width:
            chosen = wider
    return chosen


def _table_width(table: Table, console: Console) -> int:
    return Measurement.get(console, console.options.update(max_width=10_000), table).maximum


def _ranking_table(columns: list[Figure], rows: list[ReportRow], console: Console, *, cut: int = 0) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    unit = sample_unit(rows)
    for column in columns:
        cells = [
            to_console_encoding(text, console)
            for text in (figure_title(column, ENGLISH, unit), *(cell_text(column, row) for row in rows))
        ]
        widest = max(cell_len(cell) for cell in cells)
        is_name = column.priority == 0 and column.left
        table.add_column(
            cells[0],
            justify="left" if column.left else "right",
            no_wrap=True,
            overflow="ellipsis",
            width=max(SHORTEST_NAME_COLUMNS, widest - cut) if is_name else widest,
        )
    for row in rows:
        style = "bold green" if row["rank"] == 1 else ("dim" if row["rank"] is None else None)
        table.add_row(
            *(Text(to_console_encoding(cell_text(column, row), console)) for column in columns), style=style
        )
    return table


def to_console_encoding(text: str, console: Console) -> str:
    """Return a text in signs that the console's encoding has."""
    if console.encoding.lower().startswith("utf"):
        return text
    plain = text.replace("±", "+-").replace("–", "-").replace("✗", "x")
    return plain.encode("ascii", "replace").decode("ascii")


SEVERITY_STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}


def findings_summary(findings: Sequence[Finding]) -> str:
    """Return how many findings there are of each severity."""
    counts = Counter(each.severity for each in findings)
    parts = [f"{counts[s]} {s}{'s' if counts[s] > 1 else ''}" for s in Severity if counts[s]]
    return ", ".join(parts) if parts else "no findings"


def print_findings(findings: Sequence[Finding], console: Console, *, only: Severity | None = None) -> None:
    """Print findings, those of one rule together, with what to do about them; `only` those of a severity."""
    shown = [each for each in findings if only is None or each.severity is only]
    for (severity, code, advice), group in groupby(shown, lambda f: (f.severity, f.code, f.advice)):
        head = Text.assemble((severity.upper(), SEVERITY_STYLES[severity]), "  ", (code, "bold"))
        console.print(head)
        for each in group:
            row = " ".join(each.rows) or ENGLISH.text("all rows")
            console.print(Text(to_console_encoding(f"  {row}: {each.message}", console)), soft_wrap=True)
        console.print(Text(to_console_encoding(f"  -> {advice}", console), style="dim"), soft_wrap=True)
    console.print(Text(findings_summary(findings)))
