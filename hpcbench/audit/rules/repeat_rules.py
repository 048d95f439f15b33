"""Rules about repeats: how much of a difference may be claimed."""

from __future__ import annotations

from hpcbench.analysis.pairwise_tests import RunPair
from hpcbench.analysis.run_figures import Observation
from hpcbench.analysis.statistical_tests import MAX_REPEATS, MIN_PAIRED_BLOCKS
from hpcbench.audit.audit_findings import AuditRule, FindingScope, Severity
from hpcbench.audit.evidence import AuditedRow
from hpcbench.audit.rules import table_rules


def too_few_repeats(row: AuditedRow) -> Observation | None:
    """Find rows that rest on fewer repeats than any test needs."""
    n = len(row.repeats)
    if row.spec.smoke or n >= MIN_PAIRED_BLOCKS:
        return None
    return Observation(
        message=f"{n} finished repeat{'s' if n > 1 else ''}: its spread is not known well enough to claim "
        "a difference",
        figures={"repeats": n},
    )


def difference_not_significant(pair: RunPair) -> Observation | None:
    """State of two neighbours in a ranking that they are not told apart."""
    if pair.supported or pair.p_holm is None:
        return None
    needed = pair.repeats_needed()
    repeats = f"about {needed}" if needed else f"more than {MAX_REPEATS}"
    return Observation(
        row=pair.second,
        message=f"{pair.difference.blocks} repeats do not tell it from {pair.first} above it (p = "
        f"{pair.p_holm:.2g}); {repeats} repeats would be needed",
        figures={
            "first": pair.first,
            "p": pair.p_holm,
            "blocks": pair.difference.blocks,
            "repeats_needed": needed,
        },
    )


REPEAT_RULES = (
    AuditRule(
        code="too-few-repeats",
        severity=Severity.WARNING,
        scope=FindingScope.RUN,
        what="One run is an anecdote: no difference to it can be called real.",
        when="Fewer than three repeats have finished (smoke runs apart). Tables: no column states repeats "
        "or a spread.",
        advice="Repeat every run at least three times, interleaved in time.",
        source="docs/methodology.md, M11; both studies",
        of_row=too_few_repeats,
        of_table=table_rules.no_repeats,
    ),
    AuditRule(
        code="difference-not-significant",
        severity=Severity.NOTE,
        scope=FindingScope.GROUP,
        what="Two neighbours in the ranking are not told apart by their repeats.",
        when="The paired t test over repeats, corrected inside the class, does not support the difference.",
        advice="Take them for equally good, or run as many repeats as the message says.",
        source="docs/methodology.md, M11; docs/report.md",
        of_pair=difference_not_significant,
    ),
)
