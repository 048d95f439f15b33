"""A table that somebody else has made, as far as it can be used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hpcbench.analysis.audit.findings import Observation
from hpcbench.analysis.audit.foreign.cells import Reader, UnreadableCellError
from hpcbench.analysis.audit.foreign.columns import Column, choose, plain, read_header
from hpcbench.analysis.audit.foreign.grid import Grid, RawRow, grids
from hpcbench.analysis.audit.foreign.names import NameFacts, read_name, switch
from hpcbench.analysis.audit.foreign.text import read_text
from hpcbench.errors import Place, input_error

NUMBERS = ("throughput", "epoch_time", "total_time", "accuracy", "batch_size", "devices")
MAX_NAME = 120


@dataclass(frozen=True, kw_only=True)
class Stated:
    """What the user says about a table that it does not say itself."""

    samples_per_epoch: int | None = None
    epochs: int | None = None
    eval_samples: int | None = None
    ranks: int | None = None
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TableRow:
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
class Table:
    """The usable rows. `remarks` say what was taken for what, and what could not be judged."""

    file: str
    stated: Stated
    columns: Mapping[str, str]
    rows: tuple[TableRow, ...]
    problems: tuple[Observation, ...] = ()
    remarks: tuple[str, ...] = ()


def read_tables(path: Path, stated: Stated) -> list[Table]:
    """Read the tables of a CSV or Markdown file.

    Raises InputError for a file, column or unit that cannot be used; a Markdown file may hold other tables
    too.
    """
    found = grids(path, read_text(path))
    if len(found) == 1:
        return [_table(found[0], stated)]
    usable = [grid for grid in found if any(_is_measure(cell) for cell in grid.header.cells)]
    return [_table(grid, stated) for grid in usable or found[:1]]


def _is_measure(header: str) -> bool:
    return read_header(0, header).field == "throughput"


def _table(grid: Grid, stated: Stated) -> Table:
    columns, remarks = choose(grid, stated.columns)
    readers = {
        name: Reader(columns[name], _unit(columns[name]), grid.separator)
        for name in NUMBERS
        if name in columns
    }
    problems: list[Observation] = []
    rows = [_row(grid, raw, columns, readers, problems) for raw in grid.rows]
    percent = _in_percent(rows, columns.get("accuracy"))
    usable = [row for row in percent if row.throughput_samples_s is not None or row.acc_pct is not None]
    if not usable:
        told = "; ".join(problem.message for problem in problems[:3]) or "there are no rows with numbers"
        raise input_error(
            f"the table has no usable row: {told}",
            place=Place(grid.file, grid.rows[0].line if grid.rows else grid.header.line),
        )
    for name, reader in readers.items():
        if name in ("throughput", "epoch_time", "total_time") and reader.unit is None:
            unit = "samples/s" if name == "throughput" else "seconds"
            remarks.append(f"column {columns[name].header!r} has no unit: taken as {unit}")
    return Table(
        file=grid.file,
        stated=stated,
        columns={name: column.header for name, column in columns.items()},
        rows=tuple(usable),
        problems=tuple(problems),
        remarks=(*remarks, *_not_judged(columns, stated)),
    )


def _unit(column: Column) -> str | None:
    return plain(column.unit) if column.unit else None


def _not_judged(columns: Mapping[str, Column], stated: Stated) -> Iterable[str]:
    timed = {"epoch_time", "total_time"} & columns.keys()
    if "throughput" in columns and timed and stated.samples_per_epoch is None:
        yield "throughput x time was not judged: say --samples-per-epoch N"
    elif "total_time" in columns and "throughput" in columns and stated.epochs is None:
        yield f"column {columns['total_time'].header!r} was not judged: say --epochs N"
    if "throughput" not in columns or not timed:
        yield "throughput x time was not judged: it takes a column of each"


def _row(
    grid: Grid,
    raw: RawRow,
    columns: Mapping[str, Column],
    readers: Mapping[str, Reader],
    problems: list[Observation],
) -> TableRow:
    def cell(name: str) -> str:
        column = columns.get(name)
        return raw.cells[column.index] if column and column.index < len(raw.cells) else ""

    name = printable(cell("name")) or f"row {raw.line}"
    values: dict[str, float | None] = dict.fromkeys(NUMBERS)
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
    cache, amp = switch(cell("cache")), switch(cell("precision"))
    return TableRow(
        name=name,
        line=raw.line,
        throughput_samples_s=values["throughput"],
        epoch_time_s=values["epoch_time"],
        total_time_s=values["total_time"],
        acc_pct=values["accuracy"],
        batch=_whole(values["batch_size"]),
        devices=_whole(values["devices"]) or facts.devices,
        model=cell("model").strip().casefold() or facts.model,
        cache=facts.cache if cache is None else cache,
        amp=facts.amp if amp is None else amp,
        facts=facts,
    )


def printable(text: str) -> str:
    """Return a name without control characters, which could do things to a terminal, and not too long."""
    kept = "".join(sign if sign.isprintable() else " " for sign in text)
    kept = " ".join(kept.split()).strip("*`")
    return kept if len(kept) <= MAX_NAME else f"{kept[:MAX_NAME]}..."


def _whole(value: float | None) -> int | None:
    return None if value is None or value > 1e9 else int(value)


def _in_percent(rows: Sequence[TableRow], column: Column | None) -> list[TableRow]:
    """Return rows with accuracies in per cent: without a unit, and with no value above 1, they are shares."""
    values = [row.acc_pct for row in rows if row.acc_pct is not None]
    if column is None or column.unit in ("%", "pct", "percent") or not values or max(values) > 1:
        return list(rows)
    return [row if row.acc_pct is None else replace(row, acc_pct=100 * row.acc_pct) for row in rows]
