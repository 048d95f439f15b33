"""How a ranking looks to people: which columns, under which titles, with how many digits.

The terminal, `ranking.md` and `report.md` show the same cells; `ranking.csv` has the plain numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hpcbench.audit.audit_findings import Severity
from hpcbench.audit.rule_table import ALL_RULES
from hpcbench.catalog import CATALOG
from hpcbench.report.words import Words

Row = dict[str, Any]
NOTHING = "–"
MARK = "✗"  # instead of a rank: an error was found

SEVERITIES = {rule.code: rule.severity for rule in ALL_RULES}


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column for people. A terminal that is too narrow leaves out those of the highest `priority`."""

    key: str  # of the ranking, and of the title in a language's words
    cell: Callable[[Row], str]
    priority: int
    right: bool = True

    def title(self, words: Words, unit: str) -> str:
        """Return its title; `unit` is what a sample is called."""
        return words.columns[self.key].format(unit=unit)


def number(value: float | None, *, digits: int = 3) -> str:
    """Write a number with at least `digits` significant digits, whole ones never cut, thousands apart."""
    if value is None:
        return NOTHING
    whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    return f"{value:,.{max(0, digits - whole)}f}"


def fixed(column: str, decimals: int) -> Callable[[Row], str]:
    """Return the cell of a column with a fixed number of decimals."""
    return lambda row: NOTHING if row[column] is None else f"{row[column]:,.{decimals}f}"


def optional(column: str, decimals: int) -> Callable[[Row], str]:
    """Return the cell of a column that not every table has."""
    return lambda row: NOTHING if row.get(column) is None else f"{row[column]:,.{decimals}f}"


def text(column: str) -> Callable[[Row], str]:
    """Return the cell of a column as it is."""
    return lambda row: NOTHING if row[column] is None else str(row[column])


def significant(column: str) -> Callable[[Row], str]:
    """Return the cell of a column with three significant digits."""
    return lambda row: number(row[column])


def rank(row: Row) -> str:
    """Write a rank, or the ranks that a tie spans."""
    if row["rank"] is None:
        return MARK if row["trusted"] == "no" else NOTHING
    low, high = row["rank"], row["rank_high"]
    return str(low) if low == high else f"{low}–{high}"


def findings(row: Row) -> str:
    """Write how many findings there are of each severity; which ones stands below the table."""
    severities = Counter(SEVERITIES[code] for code in (row["findings"] or "").split() if code in SEVERITIES)
    counts = ((severities[each], each) for each in Severity)
    return ", ".join(f"{n} {each}{'s' if n > 1 else ''}" for n, each in counts if n)


def throughput(row: Row) -> str:
    """Write a throughput with half the width of its confidence interval."""
    mean, high = row["throughput_samples_s"], row["throughput_ci_high"]
    return (
        number(mean) if mean is None or high is None else f"{number(mean)} ±{number(high - mean, digits=2)}"
    )


COLUMNS = (
    Column(key="rank", cell=rank, priority=0),
    Column(key="experiment", cell=text("experiment"), priority=0, right=False),
    Column(key="throughput_samples_s", cell=throughput, priority=0),
    Column(key="repeats", cell=text("repeats"), priority=2),
    Column(key="throughput_per_device", cell=significant("throughput_per_device"), priority=7),
    Column(key="best_acc_pct", cell=fixed("best_acc_pct", 2), priority=3),
    Column(key="final_acc_pct", cell=fixed("final_acc_pct", 2), priority=9),
    Column(key="epoch_time_s", cell=significant("epoch_time_s"), priority=4),
    Column(key="total_time_s", cell=significant("total_time_s"), priority=8),
    Column(key="peak_mem_mb", cell=significant("peak_mem_mb"), priority=5),
    Column(key="data_wait_pct", cell=fixed("data_wait_pct", 1), priority=6),
    Column(key="exposed_comm_pct", cell=fixed("exposed_comm_pct", 1), priority=10),
    Column(key="of_predicted_pct", cell=optional("of_predicted_pct", 1), priority=14),
    Column(key="mfu_pct", cell=optional("mfu_pct", 1), priority=15),
    Column(key="ranks", cell=text("ranks"), priority=11),
    Column(key="batch_per_rank", cell=text("batch_per_rank"), priority=12),
    Column(key="limit", cell=text("limit"), priority=1, right=False),
    Column(key="findings", cell=findings, priority=1, right=False),
    Column(key="trusted", cell=text("trusted"), priority=13, right=False),
)


def columns_with_content(rows: list[Row]) -> list[Column]:
    """Return the columns in which any of the rows has something to say."""
    return [column for column in COLUMNS if any(column.cell(row) not in (NOTHING, "") for row in rows)]


def unit_of(rows: list[Row]) -> str:
    """Return what a sample is called: `img` where all data sets are images."""
    names = {row["dataset"] for row in rows if row["dataset"] is not None}
    units = {CATALOG.datasets[name].unit if name in CATALOG.datasets else "samples" for name in names}
    return units.pop() if len(units) == 1 else "samples"


def by_class(rows: list[Row]) -> dict[str | None, list[Row]]:
    """Return the rows of each class, in the order of the ranking; None holds unreadable runs."""
    classes: dict[str | None, list[Row]] = {}
    for row in rows:
        classes.setdefault(row["class"], []).append(row)
    return classes
