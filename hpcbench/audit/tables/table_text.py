"""A file as text and as cells: encodings, CSV with any usual separator, Markdown tables."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hpcbench.errors import InputError, SourcePlace, input_error

MAX_TABLE_BYTES = 1_000_000
BINARY_SIGNATURES = {
    b"PK\x03\x04": "a spreadsheet or archive",
    b"%PDF": "a PDF",
    b"\xd0\xcf\x11\xe0": "an old spreadsheet",
}
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_CHINESE = re.compile(r"[\u3400-\u9fff]")
# What reads as GB18030 by accident (Western letters with accents) gives signs that no table has.
_LIKELY_CHINESE = re.compile(
    r"[\x09\x0a\x0d\x20-\x7e\u00b0-\u00d7\u2010-\u2103\u3000-\u303f\u4e00-\u9fa5\uff00-\uffef]*"
)
_COMMON_CHINESE = re.compile(r"[吞吐量时间训练准确率批大小模型方法实验策略每轮总测试验证显存缓存精度]")


def read_table_text(path: Path) -> str:
    """Return a table's text: UTF-8, UTF-16 with its mark, or GB18030. Raises InputError for anything else."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TABLE_BYTES + 1)
    except FileNotFoundError:
        raise input_error("there is no such table", key=str(path)) from None
    except OSError as error:
        raise input_error(f"the table cannot be read: {error.strerror}", key=str(path)) from None
    if len(data) > MAX_TABLE_BYTES:
        line = data.count(b"\n") + 1
        raise input_error(
            f"the table is larger than {MAX_TABLE_BYTES:,} bytes: row {line:,} crosses the limit",
            place=SourcePlace(str(path), line),
            hint="Keep the rows and columns that are to be audited",
        )
    for magic, what in BINARY_SIGNATURES.items():
        if data.startswith(magic):
            raise input_error(
                f"this is {what}, not a table in text", place=SourcePlace(str(path)), hint="Export it as CSV"
            )
    return _decode(data, str(path))


def _decode(data: bytes, file: str) -> str:
    if data.startswith(_UTF16):
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError:
            raise input_error(
                "the file starts with a UTF-16 byte order mark but is not valid UTF-16",
                place=SourcePlace(file),
            ) from None
    if b"\x00" in data:
        raise _encoding_error(
            data, data.index(b"\x00"), file, "it holds zero bytes, as UTF-16 without its mark does"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        chinese = _decode_gb18030(data)
        if chinese is None:
            raise _encoding_error(data, error.start, file, "it is neither UTF-8 nor GB18030") from None
        return chinese


def _decode_gb18030(data: bytes) -> str | None:
    try:
        text = data.decode("gb18030")
    except UnicodeDecodeError:
        return None
    return text if _LIKELY_CHINESE.fullmatch(text) and _COMMON_CHINESE.search(text) else None


def _encoding_error(data: bytes, at: int, file: str, problem: str) -> InputError:
    line = data.count(b"\n", 0, at) + 1
    before = data[data.rfind(b"\n", 0, at) + 1 : at]
    column = before.count(b",") + before.count(b";") + before.count(b"\t") + 1
    return input_error(
        f"the table's encoding is not understood in row {line}, column {column}: {problem}",
        place=SourcePlace(file, line),
        allowed="UTF-8, UTF-16 with a byte order mark, GB18030",
        hint="Save it as UTF-8",
    )


CSV_SEPARATORS = ",;\t|"
MARKDOWN_SUFFIXES = (".md", ".markdown")
MAX_COLUMNS = 500
_SEPARATOR_ROW = re.compile(r"\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*")
_CELL_LIMIT = 2**31 - 1  # of csv itself; what is too long is told with its row and column


@dataclass(frozen=True)
class TextRow:
    """The cells of a row, and the line of the file it stands on."""

    line: int
    cells: tuple[str, ...]


@dataclass(frozen=True)
class TextTable:
    """A table as it stands: a header and rows of text."""

    file: str
    header: TextRow
    rows: tuple[TextRow, ...]
    separator: str


def split_tables(path: Path, text: str) -> list[TextTable]:
    """Return the tables of a file. Raises InputError where there is none."""
    file = str(path)
    found = (
        list(_markdown_tables(file, text))
        if path.suffix.lower() in MARKDOWN_SUFFIXES
        else [_csv_table(file, text)]
    )
    if not found:
        raise input_error(
            "there is no table in this file", place=SourcePlace(file), allowed="| a | b |\\n|---|---|\\n..."
        )
    return found


def _csv_table(file: str, text: str) -> TextTable:
    first = next((line for line in text.splitlines() if line.strip()), "")
    separator = max(CSV_SEPARATORS, key=lambda sign: _outside_quotes(first).count(sign))
    csv.field_size_limit(_CELL_LIMIT)
    reader = csv.reader(io.StringIO(text, newline=None), delimiter=separator, strict=False)
    rows: list[TextRow] = []
    before = 0
    for cells in reader:
        line, before = before + 1, reader.line_num
        if any(cell.strip() for cell in cells):
            rows.append(TextRow(line, tuple(cells)))
    if not rows:
        raise input_error("the table is empty", place=SourcePlace(file))
    _refuse_too_wide(file, rows[0])
    return TextTable(file, rows[0], tuple(rows[1:]), separator)


def _outside_quotes(line: str) -> str:
    return re.sub(r'"[^"]*"', "", line)


def _markdown_tables(file: str, text: str) -> Iterator[TextTable]:
    lines = text.splitlines()
    at = 0
    while at + 1 < len(lines):
        if "|" in lines[at] and "-" in lines[at + 1] and _SEPARATOR_ROW.fullmatch(lines[at + 1][:10_000]):
            header, rows, at = TextRow(at + 1, _markdown_cells(lines[at])), [], at + 2
            while at < len(lines) and "|" in lines[at]:
                rows.append(TextRow(at + 1, _markdown_cells(lines[at])))
                at += 1
            _refuse_too_wide(file, header)
            yield TextTable(file, header, tuple(rows), "|")
        else:
            at += 1


def _markdown_cells(line: str) -> tuple[str, ...]:
    inner = line.strip().removeprefix("|")
    inner = inner[:-1] if inner.endswith("|") and not inner.endswith("\\|") else inner
    return tuple(cell.replace("\\|", "|").strip() for cell in re.split(r"(?<!\\)\|", inner))


def _refuse_too_wide(file: str, header: TextRow) -> None:
    if len(header.cells) > MAX_COLUMNS:
        raise input_error(
            "the table has too many columns",
            place=SourcePlace(file, header.line),
            found=len(header.cells),
            allowed=f"up to {MAX_COLUMNS}",
        )
