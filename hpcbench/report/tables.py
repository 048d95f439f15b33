"""The ranking as a table in Markdown, and as CSV."""

from __future__ import annotations

import pandas as pd

from hpcbench.analysis.result_rows import plain_rows
from hpcbench.report.cells import Row, by_class, columns_with_content, unit_of
from hpcbench.report.text import escape
from hpcbench.report.words import Words
from hpcbench.report.words_en import ENGLISH


def to_csv(frame: pd.DataFrame) -> str:
    """Return the ranking as CSV: what is unknown is empty, numbers are not rounded."""
    return frame.to_csv(index=False, lineterminator="\n")


def to_markdown(frame: pd.DataFrame, words: Words = ENGLISH) -> str:
    """Return the ranking as Markdown, one table a class."""
    sections = [
        f"## {escape(label or words.unreadable)}\n\n{markdown_table(members, words)}"
        for label, members in by_class(plain_rows(frame)).items()
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
