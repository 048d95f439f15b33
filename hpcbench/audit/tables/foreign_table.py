"""A table of others as rows of numbers, with the cells that could not be read."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hpcbench.analysis.run_figures import Observation
from hpcbench.audit.tables.table_headers import (
    TIME_UNITS,
    NameFacts,
    TableColumn,
    choose_columns,
    normalise_header,
    rate_unit,
    read_header,
    read_name,
    read_switch,
)
from hpcbench.audit.tables.table_text import TextRow, TextTable, read_table_text, split_tables
from hpcbench.errors import SourcePlace, input_error

MAX_CELL = 200
MISSING_CELLS = frozenset({"", "-", "--", "–", "—", "/", "n/a", "na", "nan", "none", "null", "无", "空"})
_NUMBER = re.compile(
    r"[~≈]?\s*(?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+|\d{1,3}(?:,\d{3})+(?:\.\d*)?)(?:e[+-]?\d+)?)"
    r"\s*(?:(?:±|\+-|\+/-)\s*[\d.,]+\s*)?(?P<unit>[^\d.,±+\-].*)?"
)
_CLOCK = re.compile(r"(\d+):([0-5]?\d):([0-5]?\d(?:\.\d+)?)")
_TAG = re.compile(r"<[^<>]*>|&[a-z#0-9]+;", re.IGNORECASE)
_POSITIVE_FIELDS = ("throughput", "epoch_time", "total_time", "batch_size", "devices")
_TIME_FIELDS = ("epoch_time", "total_time")


class UnreadableCellError(ValueError):
    """A cell that is not a number; the text says why."""


@dataclass
class CellReader:
    """Reads the cells of one column; the first unit that it meets holds for the column."""

    column: TableColumn
    unit: str | None
    separator: str

    def number(self, cell: str) -> float | None:
        """Return the value in samples/s, s, per cent or as it is; None for an empty cell.

        Raises UnreadableCellError.
        """
        text = unicodedata.normalize("NFKC", cell).strip().strip("*`_ ").casefold()
        if text in MISSING_CELLS:
            return None
        if len(text) > MAX_CELL:
            raise UnreadableCellError(f"{len(text):,} characters are no number")
        if text[0] in "=@" or re.match(r"[+-][a-z(]", text):
            raise UnreadableCellError("a formula, which is not evaluated")
        if _TAG.search(text):
            raise UnreadableCellError("HTML, which is not interpreted")
        clock = _CLOCK.fullmatch(text)
        if clock and self.column.field in _TIME_FIELDS:
            hours, minutes, seconds = clock.groups()
            return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
        return self._plain(text)

    def _plain(self, text: str) -> float:
        match = _NUMBER.fullmatch(text)
        if not match:
            raise UnreadableCellError(f"{_shortened(text)} is not a number")
        if "," in match["number"] and self.separator == ";":
            raise UnreadableCellError(
                f"{_shortened(text)}: a comma could stand for thousands or for decimals"
            )
        value = float(match["number"].replace(",", "")) * self._scale((match["unit"] or "").strip() or None)
        if not math.isfinite(value) or (self.column.field in _POSITIVE_FIELDS and value <= 0):
            raise UnreadableCellError(f"{_shortened(text)} is not a positive number")
        return value

    def _scale(self, said: str | None) -> float:
        """Return what a cell is multiplied by; units must be known, and one in a column."""
        field = self.column.field
        if field not in ("throughput", *_TIME_FIELDS):
            if said not in (None, "%", "pct"):
                raise UnreadableCellError(f"the unit {_shortened(said)} is not known here")
            return 1.0
        if said is not None and _unit_factor(field, said) is None:
            raise UnreadableCellError(f"the unit {_shortened(said)} is not known here")
        if (
            said is not None
            and self.unit is not None
            and _unit_factor(field, said) != _unit_factor(field, self.unit)
        ):
            raise UnreadableCellError(
                f"units are mixed: {_shortened(said)} in a column of {_shortened(self.unit)}"
            )
        self.unit = self.unit or said
        factor = _unit_factor(field, self.unit) if self.unit else 1.0
        if factor is None:
            raise UnreadableCellError(f"the column's unit {_shortened(self.unit or '')} is not known here")
        return factor


def _unit_factor(field: str, unit: str) -> float | None:
    return rate_unit(unit) if field == "throughput" else TIME_UNITS.get(unit)


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


NUMBER_FIELDS = ("throughput", "epoch_time", "total_time", "accuracy", "batch_size", "devices")
MAX_NAME_LENGTH = 120


@dataclass(frozen=True, kw_only=True)
class StatedFacts:
    """What the user says about a table that it does not say itself."""

    samples_per_epoch: int | None = None
    epochs: int | None = None
    eval_samples: int | None = None
    ranks: int | None = None
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ForeignRow:
    """A row: its name, and its numbers in samples/s, seconds and per cent; None where there is none."""

    name: str
    line: int
    throughput_samples_s: float | None = None
    epoch_time_s: float | None = None
    total_time_s: float | None = None
    acc_pct: float | None = None
    batch: int | None = None
    devices: int | None = None
    model: str | None = None
    cache: bool = False
    amp: bool = False
    facts: NameFacts = field(default_factory=NameFacts)


@dataclass(frozen=True, kw_only=True)
class ForeignTable:
    """The usable rows. `remarks` say what was taken for what, and what could not be judged."""

    file: str
    stated: StatedFacts
    columns: Mapping[str, str]
    rows: tuple[ForeignRow, ...]
    problems: tuple[Observation, ...] = ()
    remarks: tuple[str, ...] = ()


def read_tables(path: Path, stated: StatedFacts) -> list[ForeignTable]:
    """Read the tables of a CSV or Markdown file.

    Raises InputError for a file, column or unit that cannot be used; a Markdown file may hold other tables
    too.
    """
    found = split_tables(path, read_table_text(path))
    if len(found) == 1:
        return [_foreign_table(found[0], stated)]
    usable = [grid for grid in found if any(_is_measure(cell) for cell in grid.header.cells)]
    return [_foreign_table(grid, stated) for grid in usable or found[:1]]


def _is_measure(header: str) -> bool:
    return read_header(0, header).field == "throughput"


def _foreign_table(grid: TextTable, stated: StatedFacts) -> ForeignTable:
    columns, remarks = choose_columns(grid, stated.columns)
    readers = {
        name: CellReader(columns[name], _unit(columns[name]), grid.separator)
        for name in NUMBER_FIELDS
        if name in columns
    }
    problems: list[Observation] = []
    rows = [_foreign_row(grid, raw, columns, readers, problems) for raw in grid.rows]
    percent = _in_percent(rows, columns.get("accuracy"))
    usable = [row for row in percent if row.throughput_samples_s is not None or row.acc_pct is not None]
    if not usable:
        told = "; ".join(problem.message for problem in problems[:3]) or "there are no rows with numbers"
        raise input_error(
            f"the table has no usable row: {told}",
            place=SourcePlace(grid.file, grid.rows[0].line if grid.rows else grid.header.line),
        )
    for name, reader in readers.items():
        if name in ("throughput", "epoch_time", "total_time") and reader.unit is None:
            unit = "samples/s" if name == "throughput" else "seconds"
            remarks.append(f"column {columns[name].header!r} has no unit: taken as {unit}")
    return ForeignTable(
        file=grid.file,
        stated=stated,
        columns={name: column.header for name, column in columns.items()},
        rows=tuple(usable),
        problems=tuple(problems),
        remarks=(*remarks, *_not_judged(columns, stated)),
    )


def _unit(column: TableColumn) -> str | None:
    return normalise_header(column.unit) if column.unit else None


def _not_judged(columns: Mapping[str, TableColumn], stated: StatedFacts) -> Iterable[str]:
    timed = {"epoch_time", "total_time"} & columns.keys()
    if "throughput" in columns and timed and stated.samples_per_epoch is None:
        yield "throughput x time was not judged: say --samples-per-epoch N"
    elif "total_time" in columns and "throughput" in columns and stated.epochs is None:
        yield f"column {columns['total_time'].header!r} was not judged: say --epochs N"
    if "throughput" not in columns or not timed:
        yield "throughput x time was not judged: it takes a column of each"


def _foreign_row(
    grid: TextTable,
    raw: TextRow,
    columns: Mapping[str, TableColumn],
    readers: Mapping[str, CellReader],
    problems: list[Observation],
) -> ForeignRow:
    def cell(name: str) -> str:
        column = columns.get(name)
        return raw.cells[column.index] if column and column.index < len(raw.cells) else ""

    name = printable_name(cell("name")) or f"row {raw.line}"
    values: dict[str, float | None] = dict.fromkeys(NUMBER_FIELDS)
    bad: list[str] = []
    for field_name, reader in readers.items():
        try:
            values[field_name] = reader.number(cell(field_name))
        except UnreadableCellError as error:
            bad.append(f"row {raw.line}, column {reader.column.header!r}: {error}")
    if bad:
        more = f" (and {len(bad) - 1} more cells of this row)" if len(bad) > 1 else ""
        problems.append(
            Observation(row=name, message=bad[0] + more, figures={"line": raw.line, "cells": bad})
        )
    facts = read_name(name)
    cache, amp = read_switch(cell("cache")), read_switch(cell("precision"))
    return ForeignRow(
        name=name,
        line=raw.line,
        throughput_samples_s=values["throughput"],
        epoch_time_s=values["epoch_time"],
        total_time_s=values["total_time"],
        acc_pct=values["accuracy"],
        batch=_whole_number(values["batch_size"]),
        devices=_whole_number(values["devices"]) or facts.devices,
        model=cell("model").strip().casefold() or facts.model,
        cache=facts.cache if cache is None else cache,
        amp=facts.amp if amp is None else amp,
        facts=facts,
    )


def printable_name(text: str) -> str:
    """Return a name without control characters, which could do things to a terminal, and not too long."""
    kept = "".join(sign if sign.isprintable() else " " for sign in text)
    kept = " ".join(kept.split()).strip("*`")
    return kept if len(kept) <= MAX_NAME_LENGTH else f"{kept[:MAX_NAME_LENGTH]}..."


def _whole_number(value: float | None) -> int | None:
    return None if value is None or value > 1e9 else int(value)


def _in_percent(rows: Sequence[ForeignRow], column: TableColumn | None) -> list[ForeignRow]:
    """Return rows with accuracies in per cent: without a unit, and with no value above 1, they are shares."""
    values = [row.acc_pct for row in rows if row.acc_pct is not None]
    if column is None or column.unit in ("%", "pct", "percent") or not values or max(values) > 1:
        return list(rows)
    return [row if row.acc_pct is None else replace(row, acc_pct=100 * row.acc_pct) for row in rows]
