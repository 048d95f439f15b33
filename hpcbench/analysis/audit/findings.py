"""What an audit says: findings, and the rules that they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpcbench.analysis.audit.evidence import Comparison, Repeat, RunRow
    from hpcbench.analysis.audit.foreign.table import Table
    from hpcbench.analysis.ceilings import Ceilings
    from hpcbench.analysis.pairs import Pair


class Severity(StrEnum):
    """How bad it is: an error makes a figure wrong, a warning bends it, a note limits what it says."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Scope(StrEnum):
    """What a finding is about. A run with an error of run scope takes no rank."""

    RUN = "run"
    GROUP = "group"
    SWEEP = "sweep"


Figures = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What a rule saw: the sentence, and the figures it rests on. `row` is set where a rule saw several."""

    message: str
    row: str | None = None
    figures: Figures = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong with one row; `rows` is empty where it is about all of them."""

    code: str
    severity: Severity
    scope: Scope
    rows: tuple[str, ...]
    message: str
    figures: Figures
    advice: str

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "rows": list(self.rows), "figures": dict(self.figures)}


Seen = Iterable[Observation]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule. Each `of_...` is a pure function that judges one kind of evidence; a rule has at least one.

    `what` and `when` are for docs/audit.md: what is wrong, and exactly when the rule says so.
    """

    code: str
    severity: Severity
    scope: Scope
    what: str
    when: str
    advice: str
    source: str = ""
    of_repeat: Callable[[Repeat], Observation | None] | None = None
    of_ceilings: Callable[[Repeat, Ceilings], Observation | None] | None = None
    of_nodes: Callable[[Ceilings], Seen] | None = None
    of_row: Callable[[RunRow], Observation | None] | None = None
    of_class: Callable[[Comparison], Seen] | None = None
    of_group: Callable[[Comparison], Seen] | None = None
    of_pair: Callable[[Pair], Observation | None] | None = None
    of_table: Callable[[Table], Seen] | None = None

    def finding(self, seen: Observation, row: str | None = None) -> Finding:
        """Return what this rule says about an observation."""
        named = seen.row if seen.row is not None else row
        return Finding(
            code=self.code,
            severity=self.severity,
            scope=self.scope if named is not None else Scope.SWEEP,
            rows=() if named is None else (named,),
            message=seen.message,
            figures=seen.figures,
            advice=self.advice,
        )
