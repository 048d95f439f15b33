"""The ranking on a terminal, of whatever width: in a moment, so without pandas."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from hpcbench.analysis.result_columns import NUMBER, RANKING_COLUMNS, WHOLE
from hpcbench.report.cells import Column, Row, by_class, columns_with_content, unit_of
from hpcbench.report.text import encodable
from hpcbench.report.words_en import ENGLISH

SHORTEST_NAME = 8  # columns; no terminal that anybody uses asks for less
READERS: dict[str, Callable[[str], Any]] = {NUMBER: float, WHOLE: int}


def read_ranking(path: Path) -> list[Row]:
    """Return the rows of `ranking.csv`; what is empty there is None."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            {
                name: READERS.get(kind, str)(line[name]) if line[name] else None
                for name, kind in RANKING_COLUMNS.items()
            }
            for line in csv.DictReader(file)
        ]


def print_ranking(rows: Sequence[Row], console: Console) -> None:
    """Print the ranked table, one for each class, with as many columns as are wide enough to be read.

    The columns that do not fit are named below.
    """
    left_out: dict[str, None] = {}
    for label, members in by_class(list(rows)).items():
        columns = _fitting_columns(members, console)
        unit = unit_of(members)
        left_out |= {c.title(ENGLISH, unit): None for c in columns_with_content(members) if c not in columns}
        console.print(Text(label or ENGLISH.unreadable, style="bold"), no_wrap=True, overflow="ellipsis")
        excess = _width(_table(columns, members, console), console) - console.width
        console.print(_table(columns, members, console, cut=max(0, excess)))
    if left_out:
        told = ENGLISH.more_columns.format(columns=ENGLISH.joiner.join(left_out))
        console.print(Text(encodable(told, console), style="dim"))
    if not rows:
        console.print(Text(ENGLISH.nothing))
    if any(row["rank"] != row["rank_high"] for row in rows):
        console.print(Text(encodable(ENGLISH.ties, console)))


def _fitting_columns(rows: list[Row], console: Console) -> list[Column]:
    """Return the most columns that fit; only where none can go any more names are cut."""
    columns = columns_with_content(rows)
    chosen = [column for column in columns if column.priority == 0]
    for candidate in sorted((c for c in columns if c.priority > 0), key=lambda c: c.priority):
        wider = [column for column in columns if column in chosen or column is candidate]
        if _width(_table(wider, rows, console), console) <= console.width:
            chosen = wider
    return chosen


def _width(table: Table, console: Console) -> int:
    return Measurement.get(console, console.options.update(max_width=10_000), table).maximum


def _table(columns: list[Column], rows: list[Row], console: Console, *, cut: int = 0) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    unit = unit_of(rows)
    for column in columns:
        cells = [encodable(text, console) for text in (column.title(ENGLISH, unit), *map(column.cell, rows))]
        widest = max(cell_len(cell) for cell in cells)
        is_name = column.priority == 0 and not column.right
        table.add_column(
            cells[0],
            justify="right" if column.right else "left",
            no_wrap=True,
            overflow="ellipsis",
            width=max(SHORTEST_NAME, widest - cut) if is_name else widest,
        )
    for row in rows:
        style = "bold green" if row["rank"] == 1 else ("dim" if row["rank"] is None else None)
        table.add_row(*(Text(encodable(column.cell(row), console)) for column in columns), style=style)
    return table
