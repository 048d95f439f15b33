"""The table of all rules, and what it says as docs/audit.md."""

from __future__ import annotations

from hpcbench.analysis.audit import (
    ceilings,
    comparison,
    learning,
    machine,
    repeats,
    replicas,
    samples,
    timing,
)
from hpcbench.analysis.audit.findings import Rule
from hpcbench.analysis.audit.foreign import cells

TOPICS: dict[str, tuple[Rule, ...]] = {
    "Samples": samples.RULES,
    "Time": timing.RULES,
    "Replicas": replicas.RULES,
    "Comparisons": comparison.RULES,
    "Learning": learning.RULES,
    "Ceilings": ceilings.RULES,
    "Machine": machine.RULES,
    "Repeats": repeats.RULES,
    "Tables of others": cells.RULES,
}
RULES: tuple[Rule, ...] = tuple(rule for topic in TOPICS.values() for rule in topic)

_HEAD = """\
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

This page is written by `python -m hpcbench.analysis.audit.rules > docs/audit.md`; a test holds it against the
rules.
"""


def document() -> str:
    """Return docs/audit.md."""
    parts = [_HEAD]
    for topic, rules in TOPICS.items():
        parts.append(f"## {topic}\n")
        parts += [_section(rule) for rule in rules]
    return "\n".join(parts)


def _section(rule: Rule) -> str:
    source = f"\n\n*Source:* {rule.source}." if rule.source else ""
    return (
        f"### {rule.code}\n\n`{rule.severity}`, scope `{rule.scope}`, judged from "
        f"{' and '.join(_judges(rule))}. "
        f"{rule.what}\n\n*When:* {rule.when}\n\n*What to do:* {rule.advice}{source}\n"
    )


def _judges(rule: Rule) -> list[str]:
    of_records = (rule.of_repeat, rule.of_row, rule.of_class, rule.of_group, rule.of_pair)
    told = ["records"] if any(of_records) else []
    told += ["records held against ceilings"] if rule.of_ceilings else []
    told += ["ceilings"] if rule.of_nodes else []
    return [*told, "tables"] if rule.of_table else told


if __name__ == "__main__":
    print(document(), end="")
