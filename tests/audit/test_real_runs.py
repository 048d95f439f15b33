"""Real trainings: those that make a mistake are named for it, those that don't are not."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from hpcbench import cli
from hpcbench.analysis.result_rows import plain_rows
from hpcbench.audit.audit_findings import Finding, Severity
from hpcbench.catalog import CATALOG
from hpcbench.cli.ranking_output import print_ranking
from hpcbench.errors import InputError
from hpcbench.report.collection import collect_results
from hpcbench.report.findings_report import read_findings
from hpcbench.report.results_audit import audit_results
from hpcbench.sweep.sweep_loading import load_sweep
from tests.audit.judging import codes, errors

EXPECTED = {
    "manual_all_reduce": {"replicas-diverged", "initial-state-differs", "parity-failed"},
    "parameter_server": {"samples-not-conserved", "steps-per-epoch-differ", "recipe-differs"},
    "scaled_by_ranks": {"world-size-inflated"},
    "stepped_ddp": {"recipe-differs"},
    "undecayed_all_reduce": {"recipe-differs"},
    "blind_timers": {"timer-not-synchronised", "time-unaccounted"},
    "cache_memory": {"cache-changes-learning"},
    "decodes_everything": {"input-bound"},
    "evaluates_everything": {"evaluation-duplicated"},
    "counts_padding": {"evaluation-duplicated"},
    "drops_last_batch": {"evaluation-incomplete"},
    "summed_gradients": {"parity-failed"},
    "straggling_rank": {"straggler-rank"},
    "exploding_rate": {"non-finite-loss"},
}
HONEST = ("one_process", "honest_ddp", "honest_all_reduce", "cache_none")
# What a busy machine does to a measurement is told as well; no test can forbid it.
OF_THE_MACHINE = {
    "busy-machine", "unstable-steps", "straggler-rank", "slower-than-one-device", "input-bound",
    "evaluation-dominates", "time-unaccounted", "converged-too-slow",
}  # fmt: skip


@pytest.fixture(scope="module")
def found(mistakes: Path) -> list[Finding]:
    """Return what the audit says of the mistakes."""
    return audit_results(mistakes)[0]


@pytest.mark.parametrize("row", EXPECTED)
def test_every_mistake_is_named(row: str, found: list[Finding]) -> None:
    """Each run of sweeps/mistakes.yaml has the findings that its comment promises."""
    assert codes(found, row) >= EXPECTED[row]


def test_every_run_of_the_sweep_is_expected_to_be_something(mistakes: Path) -> None:
    """A mistake that is added to the sweep has to appear here."""
    rows = {folder.name for folder in (mistakes / "runs").iterdir()}
    assert rows == {*EXPECTED, *HONEST}


def test_honest_runs_beside_the_mistakes_are_not_blamed(found: list[Finding]) -> None:
    """Nothing but the one repeat, and the machine."""
    for row in HONEST:
        assert codes(found, row) - OF_THE_MACHINE == {"too-few-repeats"}


def test_mistakes_are_blamed_for_nothing_else(found: list[Finding]) -> None:
    """No run has an error that it was not made for."""
    unexpected = {(each.rows[0], each.code) for each in errors(found)} - {
        (row, code) for row, expected in EXPECTED.items() for code in expected
    }
    # Losses that are read too early, or counted too often, are not those of the others either.
    assert unexpected <= {("blind_timers", "parity-failed"), ("blind_timers", "samples-not-conserved")}


def test_the_collector_gives_no_rank_and_says_so(mistakes: Path) -> None:
    """Rows with an error of run scope keep their number and are marked; findings stand below the table."""
    collected = collect_results([mistakes])
    frame = collected.ranking.set_index("experiment")
    assert frame["rank"].isna().all()  # teaching is never ranked
    assert set(frame.index[frame["trusted"] == "no"]) == {
        row for finding in errors(collected.findings) if finding.scope.value == "run" for row in finding.rows
    }
    assert frame["throughput_samples_s"].notna().all()
    assert "replicas-diverged" in frame.loc["manual_all_reduce", "findings"].split()
    written = read_findings(collected.report / "findings.csv")
    assert [(e.code, e.rows, e.message) for e in written] == [
        (e.code, e.rows, e.message) for e in collected.findings
    ]
    ranking = (collected.report / "ranking.md").read_text()
    assert "✗" in ranking and "**error: replicas-diverged.**" in ranking and "manual_all_reduce" in ranking
    out = Console(file=io.StringIO(), width=200)
    print_ranking(plain_rows(collected.ranking), out)
    assert "✗" in out.file.getvalue()
    with (collected.report / "findings.csv").open() as file:
        assert {row["severity"] for row in csv.DictReader(file)} >= {"error", "warning"}


def test_every_strategy_is_honest(honest: Path) -> None:
    """Each strategy of the table, really run, gives no error; only those of several devices are emulated."""
    found, problems = audit_results(honest)
    assert errors(found) == [] and problems == []
    emulated = {each.rows[0] for each in found if each.code == "emulated"}
    assert {"dp", "model_parallel"} <= emulated and not {"ddp", "single_gpu", "ps_sync"} & emulated
    late = {each.rows[0] for each in found if each.code == "stale-updates"}
    assert late <= {"ps_async", "local_sgd"} and "local_sgd" in late
    assert all(codes(found, row) >= {"too-few-repeats"} for row in ("ddp", "single_gpu"))


def test_honest_rows_are_ranked_and_trusted(honest: Path) -> None:
    """After an audit without errors every finished row is trusted, and ranks are given."""
    frame = collect_results([honest]).ranking
    assert set(frame["trusted"]) == {"yes"}
    assert pd.notna(frame["rank"]).all()


def test_the_verb_prints_findings_and_exits_1(mistakes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`hpcbench audit RESULTS --json` has one finding for each row, with exactly the agreed keys."""
    assert cli.main(["audit", str(mistakes), "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)["findings"]
    keys = {"code", "severity", "scope", "rows", "message", "figures", "advice"}
    assert all(set(each) == keys and len(each["rows"]) == 1 for each in printed)
    assert cli.main(["audit", str(mistakes)]) == 1
    text = capsys.readouterr().out
    assert "ERROR  replicas-diverged" in text and "-> " in text


def test_the_verb_exits_0_without_an_error(honest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Warnings and notes are printed and are no failure."""
    assert cli.main(["audit", str(honest)]) == 0
    assert "WARNING" in capsys.readouterr().out


def test_options_of_tables_are_refused_for_results(honest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Records say themselves how many samples they had."""
    assert cli.main(["audit", str(honest), "--epochs", "3"]) == 2
    assert "are for tables" in capsys.readouterr().err


def test_faulty_methods_run_for_teaching_only(tmp_path: Path) -> None:
    """Neither the faulty strategy nor the faulty data set runs without `teaching: true`."""
    for wrong in ("strategy: faulty, ranks: 2", "strategy: single_gpu, dataset: faulty_digits"):
        file = tmp_path / "s.yaml"
        file.write_text(f"version: 1\nname: s\nruns: [{{{wrong}}}]\n")
        with pytest.raises(InputError, match="teaching: true"):
            load_sweep([file], CATALOG)


def test_findings_come_worst_first(found: list[Finding]) -> None:
    """Errors, then warnings, then notes."""
    order = list(Severity)
    ranks = [order.index(each.severity) for each in found]
    assert ranks == sorted(ranks)
