"""The cells of a table as numbers. What is no plain number is told with its row and column, and not used."""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpcbench.analysis.audit.findings import Observation, Rule, Scope, Severity
from hpcbench.analysis.audit.foreign.columns import Column
from hpcbench.analysis.audit.foreign.words import TIME_UNITS, rate_unit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hpcbench.analysis.audit.foreign.table import Table

MAX_CELL = 200
MISSING = frozenset({"", "-", "--", "–", "—", "/", "n/a", "na", "nan", "none", "null", "无", "空"})
_NUMBER = re.compile(
    r"[~≈]?\s*(?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+|\d{1,3}(?:,\d{3})+(?:\.\d*)?)(?:e[+-]?\d+)?)"
    r"\s*(?:(?:±|\+-|\+/-)\s*[\d.,]+\s*)?(?P<unit>[^\d.,±+\-].*)?"
)
_CLOCK = re.compile(r"(\d+):([0-5]?\d):([0-5]?\d(?:\.\d+)?)")
_TAG = re.compile(r"<[^<>]*>|&[a-z#0-9]+;", re.IGNORECASE)
_POSITIVE = ("throughput", "epoch_time", "total_time", "batch_size", "devices")
_TIMES = ("epoch_time", "total_time")


class UnreadableCellError(ValueError):
    """A cell that is no number; the text says why."""


@dataclass
class Reader:
    """Reads the cells of one column; the first unit that it meets holds for the column."""

    column: Column
    unit: str | None
    separator: str

    def number(self, cell: str) -> float | None:
        """Return the value in samples/s, s, per cent or as it is; None for an empty cell.

        Raises UnreadableCellError.
        """
        text = unicodedata.normalize("NFKC", cell).strip().strip("*`_ ").casefold()
        if text in MISSING:
            return None
        if len(text) > MAX_CELL:
            raise UnreadableCellError(f"{len(text):,} characters are no number")
        if text[0] in "=@" or re.match(r"[+-][a-z(]", text):
            raise UnreadableCellError("a formula, which is not evaluated")
        if _TAG.search(text):
            raise UnreadableCellError("HTML, which is not interpreted")
        clock = _CLOCK.fullmatch(text)
        if clock and self.column.field in _TIMES:
            hours, minutes, seconds = clock.groups()
            return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
        return self._plain(text)

    def _plain(self, text: str) -> float:
        match = _NUMBER.fullmatch(text)
        if not match:
            raise UnreadableCellError(f"{_shown(text)} is no number")
        if "," in match["number"] and self.separator == ";":
            raise UnreadableCellError(f"{_shown(text)}: a comma could stand for thousands or for decimals")
        value = float(match["number"].replace(",", "")) * self._scale((match["unit"] or "").strip() or None)
        if not math.isfinite(value) or (self.column.field in _POSITIVE and value <= 0):
            raise UnreadableCellError(f"{_shown(text)} is not a positive number")
        return value

    def _scale(self, said: str | None) -> float:
        """Return what a cell is multiplied by; units must be known, and one in a column."""
        field = self.column.field
        if field not in ("throughput", *_TIMES):
            if said not in (None, "%", "pct"):
                raise UnreadableCellError(f"the unit {_shown(said)} is not known here")
            return 1.0
        if said is not None and _factor(field, said) is None:
            raise UnreadableCellError(f"the unit {_shown(said)} is not known here")
        if said is not None and self.unit is not None and _factor(field, said) != _factor(field, self.unit):
            raise UnreadableCellError(f"units are mixed: {_shown(said)} in a column of {_shown(self.unit)}")
        self.unit = self.unit or said
        factor = _factor(field, self.unit) if self.unit else 1.0
        if factor is None:
            raise UnreadableCellError(f"the column's unit {_shown(self.unit or '')} is not known here")
        return factor


def _factor(field: str, unit: str) -> float | None:
    return rate_unit(unit) if field == "throughput" else TIME_UNITS.get(unit)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


def unreadable_cells(table: Table) -> Iterable[Observation]:
    """Name each row that has a cell which could not be used."""
    return table.problems


RULES = (
    Rule(
        code="unreadable-cell",
        severity=Severity.WARNING,
        scope=Scope.RUN,
        what="A cell that should hold a number does not, and was left out.",
        when="Text, a formula, HTML, another unit than the column's, a number that is not positive. "
        "Nothing in a table is evaluated or interpreted.",
        advice="Write plain numbers, and the unit into the header.",
        of_table=unreadable_cells,
    ),
)
