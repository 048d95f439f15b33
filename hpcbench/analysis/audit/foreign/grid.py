"""Text to cells: CSV with any usual separator, and the tables of a Markdown file."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hpcbench.errors import Place, input_error

SEPARATORS = ",;\t|"
MARKDOWN = (".md", ".markdown")
MAX_COLUMNS = 500
_RULE = re.compile(r"\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*")
_CELL_LIMIT = 2**31 - 1  # of csv itself; what is too long is told with its row and column


@dataclass(frozen=True)
class RawRow:
    """The cells of a row, and the line of the file it stands on."""

    line: int
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Grid:
    """A table as it stands: a header and rows of text."""

    file: str
    header: RawRow
    rows: tuple[RawRow, ...]
    separator: str


def grids(path: Path, text: str) -> list[Grid]:
    """Return the tables of a file. Raises InputError where there is none."""
    file = str(path)
    found = list(_markdown(file, text)) if path.suffix.lower() in MARKDOWN else [_csv(file, text)]
    if not found:
        raise input_error(
            "there is no table in this file", place=Place(file), allowed="| a | b |\\n|---|---|\\n..."
        )
    return found


def _csv(file: str, text: str) -> Grid:
    first = next((line for line in text.splitlines() if line.strip()), "")
    separator = max(SEPARATORS, key=lambda sign: _outside_quotes(first).count(sign))
    csv.field_size_limit(_CELL_LIMIT)
    reader = csv.reader(io.StringIO(text, newline=None), delimiter=separator, strict=False)
    rows: list[RawRow] = []
    before = 0
    for cells in reader:
        line, before = before + 1, reader.line_num
        if any(cell.strip() for cell in cells):
            rows.append(RawRow(line, tuple(cells)))
    if not rows:
        raise input_error("the table is empty", place=Place(file))
    _refuse_too_wide(file, rows[0])
    return Grid(file, rows[0], tuple(rows[1:]), separator)


def _outside_quotes(line: str) -> str:
    return re.sub(r'"[^"]*"', "", line)


def _markdown(file: str, text: str) -> Iterator[Grid]:
    lines = text.splitlines()
    at = 0
    while at + 1 < len(lines):
        if "|" in lines[at] and "-" in lines[at + 1] and _RULE.fullmatch(lines[at + 1][:10_000]):
            header, rows, at = RawRow(at + 1, _cells(lines[at])), [], at + 2
            while at < len(lines) and "|" in lines[at]:
                rows.append(RawRow(at + 1, _cells(lines[at])))
                at += 1
            _refuse_too_wide(file, header)
            yield Grid(file, header, tuple(rows), "|")
        else:
            at += 1


def _cells(line: str) -> tuple[str, ...]:
    inner = line.strip().removeprefix("|")
    inner = inner[:-1] if inner.endswith("|") and not inner.endswith("\\|") else inner
    return tuple(cell.replace("\\|", "|").strip() for cell in re.split(r"(?<!\\)\|", inner))


def _refuse_too_wide(file: str, header: RawRow) -> None:
    if len(header.cells) > MAX_COLUMNS:
        raise input_error(
            "the table has too many columns",
            place=Place(file, header.line),
            found=len(header.cells),
            allowed=f"up to {MAX_COLUMNS}",
        )
