"""The audit of a results folder, or of a table that others have published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hpcbench.analysis.results_loading import load_results, read_groups
from hpcbench.audit.audit_findings import Finding
from hpcbench.audit.evidence import collect_evidence
from hpcbench.audit.judge import audit_table, rank_audited, sort_findings
from hpcbench.audit.rule_table import RUN_CHECKS
from hpcbench.audit.tables.foreign_table import StatedFacts, read_tables
from hpcbench.audit.tables.table_headers import SELECTABLE_FIELDS
from hpcbench.catalog import MODEL_BLOCKS
from hpcbench.errors import input_error
from hpcbench.runs.results_folder import open_results_folder
from hpcbench.sweep.run_spec import Group


def audit_results(folder: Path) -> tuple[list[Finding], list[str]]:
    """Judge a results folder; returns findings and what was wrong with the records themselves."""
    groups: Sequence[Group] = read_groups(open_results_folder(folder).sweep)
    loaded = load_results([folder], blocks=MODEL_BLOCKS, checks=RUN_CHECKS)
    _, findings = rank_audited(loaded.runs, collect_evidence(loaded, groups), rank_by="throughput_samples_s")
    return findings, loaded.problems


def audit_file(path: Path, stated: StatedFacts) -> tuple[list[Finding], list[str]]:
    """Judge a table; returns findings and what could not be judged, or was taken for granted."""
    tables = read_tables(path, stated)
    findings = [finding for table in tables for finding in audit_table(table)]
    remarks = [f"{path}: {remark}" for table in tables for remark in table.remarks]
    return sort_findings(findings), list(dict.fromkeys(remarks))


def column_choices(settings: Sequence[str]) -> dict[str, str]:
    """Read `--column FIELD=NAME` options. Raises InputError for one that is none."""
    chosen: dict[str, str] = {}
    for setting in settings:
        field, equals, name = setting.partition("=")
        if not equals or not name.strip() or not field.strip():
            raise input_error(
                "not a choice of a column", key="--column", found=setting,
                allowed=f"FIELD=NAME, where FIELD is one of {', '.join(SELECTABLE_FIELDS)}",
            )  # fmt: skip
        chosen[field.strip()] = name.strip()
    return chosen
