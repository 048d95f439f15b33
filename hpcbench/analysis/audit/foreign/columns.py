"""What the columns of a table mean, by their names in English and Chinese, and in which unit."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hpcbench.analysis.audit.foreign.grid import Grid
from hpcbench.analysis.audit.foreign.words import PATTERNS, rate_unit, unit_at_end
from hpcbench.errors import InputError, Place, input_error, nearest

FIELDS = ("throughput", "epoch_time", "total_time", "accuracy", "batch_size", "devices", "cache", "precision",
          "model", "name", "repeats")  # fmt: skip
CAN_ASK = tuple(field for field in FIELDS if field != "repeats")

_INSIDE = re.compile(r"[(\[]([^()\[\]]*)[)\]]")


@dataclass(frozen=True)
class Column:
    """A column: where it stands, what it is called, what it means, and its unit where it says one."""

    index: int
    header: str
    field: str
    unit: str | None


def plain(header: str) -> str:
    """Return a header in the form that patterns look at: one width, lower case, words apart."""
    text = unicodedata.normalize("NFKC", header).casefold()
    return re.sub(r"[\s_\-*`#]+", " ", text).strip()


def read_header(index: int, header: str) -> Column:
    """Say what a header means."""
    text = plain(header)
    inside = _INSIDE.findall(text)
    label = _INSIDE.sub(" ", text).strip()
    label = re.sub(r"\s+", " ", label)
    unit = inside[-1].strip() if inside else None
    if unit is None:
        label, unit = unit_at_end(label)
    if unit and re.search(r"/ ?(epoch|轮)$", unit) and re.search(r"time|时间|耗时|用时", label):
        label, unit = "epoch time", unit.split("/")[0].strip()
    field = next((field for field, pattern in PATTERNS.items() if pattern.search(label)), "ignored")
    if field == "ignored" and unit and rate_unit(unit):
        field = "throughput" if not label or label == unit else field
    return Column(index, header.strip(), field, unit)


def choose(grid: Grid, said: Mapping[str, str]) -> tuple[dict[str, Column], list[str]]:
    """Return the column of each field, and in sentences what was left open.

    `said` are the user's own choices, field -> header. Raises InputError for a choice that is not there, for
    a throughput or time that several columns could be, and for a table without any of them.
    """
    columns = [read_header(index, header) for index, header in enumerate(grid.header.cells)]
    chosen = {field: _said(grid, columns, field, name) for field, name in said.items()}
    taken = {column.index for column in chosen.values()}
    left: list[str] = []
    by_field: dict[str, list[Column]] = {}
    for column in columns:
        if column.index not in taken:
            by_field.setdefault(column.field, []).append(column)
    for field in FIELDS:
        candidates = by_field.get(field, []) if field not in chosen else []
        if len(candidates) == 1:
            chosen[field] = candidates[0]
        elif candidates and field in ("throughput", "epoch_time", "total_time"):
            raise _ask(grid, field, candidates)
        elif candidates and field == "name":
            chosen[field] = candidates[0]  # which of two names is printed decides nothing
        elif candidates and field != "repeats":
            left.append(
                f"{field} could be {_quoted(candidates)}: say --column {field}=NAME to have it judged"
            )
        elif candidates:
            chosen[field] = candidates[0]
    whole = chosen.get("epoch_time")
    if whole and "epoch_time" not in said and re.fullmatch(r"训练\w*( ?[(\[].*)?", plain(whole.header)):
        left.append(
            f"column {whole.header!r} was taken for the time of an epoch: if it is that of the whole run, "
            f"say --column total_time={whole.header!r}"
        )
    if by_field.get("time") and not {"epoch_time", "total_time"} & chosen.keys():
        raise _ask(
            grid, "epoch_time", by_field["time"], "it could be the time of an epoch or of the whole run"
        )
    if not {"throughput", "accuracy"} & chosen.keys():
        raise _nothing(grid)
    return chosen, left


def _said(grid: Grid, columns: Sequence[Column], field: str, name: str) -> Column:
    if field not in CAN_ASK:
        raise input_error(
            "no such quantity",
            key="--column",
            found=field,
            allowed=", ".join(CAN_ASK),
            hint=_guess(field, CAN_ASK),
        )
    same = [c for c in columns if name in (c.header, str(c.index + 1))] or [
        c for c in columns if plain(c.header) == plain(name)
    ]
    if not same:
        headers = [c.header for c in columns]
        raise input_error(
            "the table has no such column",
            place=Place(grid.file, grid.header.line),
            key=f"--column {field}",
            found=name,
            allowed=", ".join(headers[:20]),
            hint=_guess(name, headers),
        )
    if len(same) > 1:
        numbers = " or ".join(str(c.index + 1) for c in same)
        raise input_error(
            "several columns have this name",
            place=Place(grid.file, grid.header.line),
            key=f"--column {field}",
            found=name,
            hint=f"Say its number instead: {numbers}",
        )
    return Column(same[0].index, same[0].header, field, same[0].unit)


def _guess(word: str, candidates: Sequence[str]) -> str | None:
    guess = nearest(word, candidates)
    return f"Did you mean {guess}?" if guess else None


def _quoted(columns: Sequence[Column]) -> str:
    return " or ".join(repr(column.header) for column in columns)


def _ask(grid: Grid, field: str, candidates: Sequence[Column], why: str | None = None) -> InputError:
    fields = "epoch_time or total_time" if why else field
    first = candidates[0].header
    return input_error(
        f"which column is {fields}? {why or 'Several could be it'}",
        place=Place(grid.file, grid.header.line),
        found=", ".join(column.header for column in candidates),
        hint=f"Say --column {field}={first!r}" + (f", or --column total_time={first!r}" if why else ""),
    )


def _nothing(grid: Grid) -> InputError:
    return input_error(
        "no column of this table is a throughput or an accuracy",
        place=Place(grid.file, grid.header.line),
        found=", ".join(grid.header.cells)[:200],
        allowed="names such as throughput (img/s), epoch time (s), total time (s), accuracy (%), 吞吐量, "
        "训练时间, 准确率",
        hint="Say --column throughput=NAME",
    )
