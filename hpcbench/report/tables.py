"""The ranking as a table: for a terminal, in Markdown, and as CSV."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Protocol

import pandas as pd
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from hpcbench.analysis.ranking import COLUMNS
from hpcbench.report.cells import Column, Row, by_class, columns_with_content, rows_of, unit_of
from hpcbench.report.words import Words
from hpcbench.report.words_en import ENGLISH

SHORTEST_NAME = 8  # columns; no terminal that anybody uses asks for less


class HasRanking(Protocol):
    """What `collect` returns, as far as a table needs it."""

    @property
    def ranking(self) -> pd.DataFrame:
        """The rows of `ranking.csv`."""


def print_ranking(ranking: HasRanking | pd.DataFrame, console: Console) -> None:
    """Print the ranked table, one for each class, with as many columns as are wide enough to be read."""
    frame = ranking if isinstance(ranking, pd.DataFrame) else ranking.ranking
    rows = rows_of(typed(frame))
    for label, members in by_class(rows).items():
        console.print(Text(label or ENGLISH.unreadable, style="bold"), no_wrap=True, overflow="ellipsis")
        console.print(_fitting_table(members, console))
    if not rows:
        console.print(Text(ENGLISH.nothing))
    if any(row["rank"] != row["rank_high"] for row in rows):
        console.print(Text(encodable(ENGLISH.ties, console)))


def _fitting_table(rows: list[Row], console: Console) -> Table:
    """Return the table with the most columns that fit; only where none can go any more names are cut."""
    columns = columns_with_content(rows)
    chosen = [column for column in columns if column.priority == 0]
    for candidate in sorted((c for c in columns if c.priority > 0), key=lambda c: c.priority):
        wider = [column for column in columns if column in chosen or column is candidate]
        if _width(_table(wider, rows, console), console) > console.width:
            break
        chosen = wider
    excess = _width(_table(chosen, rows, console), console) - console.width
    return _table(chosen, rows, console, cut=max(0, excess))


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


def encodable(text: str, console: Console) -> str:
    """Return a text in signs that the console's encoding has."""
    if console.encoding.lower().startswith("utf"):
        return text
    plain = text.replace("±", "+-").replace("–", "-").replace("✗", "x")
    return plain.encode("ascii", "replace").decode("ascii")


def to_csv(frame: pd.DataFrame) -> str:
    """Return the ranking as CSV: what is unknown is empty, numbers are not rounded."""
    return frame.to_csv(index=False, lineterminator="\n")


def read_csv(path: Path) -> pd.DataFrame:
    """Return the ranking that `to_csv` has written; a run may be called NA."""
    return typed(pd.read_csv(path, dtype="string", keep_default_na=False).replace({"": None}))


def typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a ranking with the types of its columns, which CSV does not keep."""
    return frame.astype({name: kind for name, kind in COLUMNS.items() if name in frame.columns})


def to_markdown(frame: pd.DataFrame, words: Words = ENGLISH) -> str:
    """Return the ranking as Markdown, one table a class."""
    sections = [
        f"## {escape(label or words.unreadable)}\n\n{markdown_table(members, words)}"
        for label, members in by_class(rows_of(frame)).items()
    ]
    return "\n".join([f"# {words.ranking}\n", *(sections or [f"{words.nothing}\n"]), words.ties, ""])


def markdown_table(rows: list[Row], words: Words) -> str:
    """Return the rows of one class as a table."""
    columns = columns_with_content(rows)
    unit = unit_of(rows)
    lines = [
        [column.title(words, unit) for column in columns],
        ["---:" if column.right else ":---" for column in columns],
        *([escape(column.cell(row)) for column in columns] for row in rows),
    ]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def escape(text: str) -> str:
    """Return a text so that Markdown shows it as it is, whatever stands in it."""
    flat = " ".join(text.split())
    marked = re.sub(r"([\\`*\[\]|$~#])", r"\\\1", flat)
    # Between letters and digits an underscore means nothing; names are full of them.
    marked = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", marked)
    return html.escape(marked, quote=False)
