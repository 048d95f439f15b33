"""What a rule is and what it reports: severities, scopes, findings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from hpcbench.analysis.run_figures import FindingValues, Observation

if TYPE_CHECKING:
    from hpcbench.analysis.pairwise_tests import RunPair
    from hpcbench.analysis.run_figures import FinishedRepeat
    from hpcbench.audit.evidence import AuditedRow, RowComparison
    from hpcbench.audit.tables.foreign_table import ForeignTable
    from hpcbench.ceilings.node_ceilings import Ceilings


class Severity(StrEnum):
    """How bad it is: an error makes a figure wrong, a warning bends it, a note limits what it says."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class FindingScope(StrEnum):
    """What a finding is about. A run with an error of run scope takes no rank."""

    RUN = "run"
    GROUP = "group"
    SWEEP = "sweep"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong with one row; `rows` is empty where it is about all of them."""

    code: str
    severity: Severity
    scope: FindingScope
    rows: tuple[str, ...]
    message: str
    figures: FindingValues
    advice: str

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "rows": list(self.rows), "figures": dict(self.figures)}


Observations = Iterable[Observation]


@dataclass(frozen=True, kw_only=True)
class AuditRule:
    """One rule. Each `of_...` is a pure function that judges one kind of evidence; a rule has at least one.

    `what` and `when` are for docs/audit.md: what is wrong, and exactly when the rule says so.
    """

    code: str
    severity: Severity
    scope: FindingScope
    what: str
    when: str
    advice: str
    source: str = ""
    of_repeat: Callable[[FinishedRepeat], Observation | None] | None = None
    of_ceilings: Callable[[FinishedRepeat, Ceilings], Observation | None] | None = None
    of_nodes: Callable[[Ceilings], Observations] | None = None
    of_row: Callable[[AuditedRow], Observation | None] | None = None
    of_class: Callable[[RowComparison], Observations] | None = None
    of_group: Callable[[RowComparison], Observations] | None = None
    of_pair: Callable[[RunPair], Observation | None] | None = None
    of_table: Callable[[ForeignTable], Observations] | None = None

    def finding(self, seen: Observation, row: str | None = None) -> Finding:
        """Return what this rule says about an observation."""
        named = seen.row if seen.row is not None else row
        return Finding(
            code=self.code,
            severity=self.severity,
            scope=self.scope if named is not None else FindingScope.SWEEP,
            rows=() if named is None else (named,),
            message=seen.message,
            figures=seen.figures,
            advice=self.advice,
        )
