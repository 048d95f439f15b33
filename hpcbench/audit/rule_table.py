"""The table of all rules, and docs/audit.md generated from it."""

from __future__ import annotations

from hpcbench.audit.audit_findings import AuditRule
from hpcbench.audit.rules import (
    ceiling_rules,
    comparison_rules,
    learning_rules,
    machine_rules,
    repeat_rules,
    replica_rules,
    sample_rules,
    timing_rules,
)
from hpcbench.audit.tables import table_checks

RULES_BY_TOPIC: dict[str, tuple[AuditRule, ...]] = {
    "Samples": sample_rules.SAMPLE_RULES,
    "Time": timing_rules.TIMING_RULES,
    "Replicas": replica_rules.REPLICA_RULES,
    "Comparisons": comparison_rules.COMPARISON_RULES,
    "Learning": learning_rules.LEARNING_RULES,
    "Ceilings": ceiling_rules.CEILING_RULES,
    "Machine": machine_rules.MACHINE_RULES,
    "Repeats": repeat_rules.REPEAT_RULES,
    "Tables of others": table_checks.TABLE_RULES,
}
ALL_RULES: list[AuditRule] = [rule for topic in RULES_BY_TOPIC.values() for rule in topic]

_DOCUMENT_HEAD = """\
# Audit

`hpcbench audit RESULTS` judges the records of a sweep, `hpcbench audit TABLE.csv --samples-per-epoch N` a
table that somebody else has made. `collect` audits too: a run with an error of run scope keeps its row and
its number, is marked, and takes no rank. Only finished runs are judged. The exit status is 1 if any finding
is an error.

| severity | means |
|---|---|
| error | a figure or a comparison is wrong |
| warning | a figure is not what it seems |
| note | a figure says less than it seems |

`sweeps/mistakes.yaml` makes the mistakes of two published comparisons on purpose.

This page is written by `python -m hpcbench.audit.rule_table > docs/audit.md`; a test holds it against the
rules.
"""


def rules_document() -> str:
    """Return docs/audit.md."""
    parts = [_DOCUMENT_HEAD]
    for topic, rules in RULES_BY_TOPIC.items():
        parts.append(f"## {topic}\n")
        parts += [_section(rule) for rule in rules]
    return "\n".join(parts)


def _section(rule: AuditRule) -> str:
    source = f"\n\n*Source:* {rule.source}." if rule.source else ""
    return (
        f"### {rule.code}\n\n`{rule.severity}`, scope `{rule.scope}`, judged from "
        f"{' and '.join(_evidence_kinds(rule))}. "
        f"{rule.what}\n\n*When:* {rule.when}\n\n*What to do:* {rule.advice}{source}\n"
    )


def _evidence_kinds(rule: AuditRule) -> list[str]:
    of_records = (rule.of_repeat, rule.of_row, rule.of_class, rule.of_group, rule.of_pair)
    told = ["records"] if any(of_records) else []
    told += ["records held against ceilings"] if rule.of_ceilings else []
    told += ["ceilings"] if rule.of_nodes else []
    return [*told, "tables"] if rule.of_table else told


if __name__ == "__main__":
    print(rules_document(), end="")
