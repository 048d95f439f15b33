"""The commands that analyse results (collect, audit, compare, predict), and the summary that they and
`submit` print at the end.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hpcbench.cli.arguments import (
    Commands,
    add_command,
    add_json,
    add_results_of,
    add_settings,
    non_negative,
    positive_count,
)
from hpcbench.report.translations import LANGUAGES
from hpcbench.runs.results_folder import ResultsFolder

if TYPE_CHECKING:
    from hpcbench.analysis.figure_registry import ReportRow
    from hpcbench.audit.audit_findings import Finding
    from hpcbench.report.collection import CollectedReport

logger = logging.getLogger(__name__)


def show_ranking(results: ResultsFolder) -> None:
    """Print the ranked table: that of the report, where nothing has happened since it was written."""
    if report_is_current(results):
        from hpcbench.cli.ranking_output import read_ranking
        from hpcbench.report.findings_report import read_findings

        found = read_findings(results.report / "findings.csv")
        _print_summary(results.report, read_ranking(results.report / "ranking.csv"), found)
    else:
        from hpcbench.report.collection import collect_results

        show_collected(collect_results([results.path]))


def show_collected(collected: CollectedReport) -> None:
    """Print what a collection found, and what it could not read."""
    from hpcbench.analysis.result_rows import plain_rows

    for problem in collected.problems:
        logger.warning("%s", problem)
    _print_summary(collected.report, plain_rows(collected.ranking), collected.findings)


def _print_summary(report: Path, rows: Sequence[ReportRow], findings: Sequence[Finding]) -> None:
    from hpcbench.audit.audit_findings import Severity
    from hpcbench.cli.ranking_output import print_findings, print_ranking
    from hpcbench.cli.terminal_tables import console

    print_ranking(rows, console())
    print_findings(findings, console(), only=Severity.ERROR)
    logger.info("the report, for a browser: %s", report / "report.html")


def report_is_current(results: ResultsFolder) -> bool:
    """Return whether nothing has happened since the report was written."""
    ranking = results.report / "ranking.csv"
    return ranking.exists() and _newest_record_ns(results) < ranking.stat().st_mtime_ns


def _newest_record_ns(results: ResultsFolder) -> int:
    files = [results.sweep, results.ledger]
    for _, _, folder in results.runs():
        files += [folder.claim(attempt) for attempt in folder.attempts()[-1:]]
        files += [file.path for file in folder.event_files()]
    return max((path.stat().st_mtime_ns for path in files if path.exists()), default=0)


def add_collect(commands: Commands) -> None:
    """Add the command `collect`."""
    parser = add_command(
        commands, "collect", _collect, "tables and plots from the records; safe while jobs run"
    )
    add = parser.add_argument
    add(
        "results",
        nargs="+",
        type=Path,
        metavar="RESULTS",
        help="results/<sweep>; the last one gets the report",
    )
    add(
        "--rank-by",
        default="throughput_samples_s",
        metavar="COLUMN",
        help="what decides (throughput_samples_s)",
    )
    add("--lang", choices=tuple(LANGUAGES), default="en", help="language of the report (en)")
    add(
        "--target-acc",
        type=non_negative,
        metavar="PCT",
        help="time to this accuracy (99 %% of a class's best)",
    )
    add(
        "--cost-per-gpu-hour",
        type=non_negative,
        metavar="N",
        help="what a device costs an hour: cost per epoch",
    )
    add("--no-pictures", action="store_true", help="tables and page only: seconds rather than minutes")


def _collect(given: argparse.Namespace) -> int:
    from hpcbench.report.collection import collect_results

    collected = collect_results(
        given.results, rank_by=given.rank_by, lang=given.lang, target_pct=given.target_acc,
        cost_per_device_hour=given.cost_per_gpu_hour, pictures=not given.no_pictures,
    )  # fmt: skip
    show_collected(collected)
    return 1 if collected.failed else 0


def add_audit(commands: Commands) -> None:
    """Add the command `audit`."""
    parser = add_command(commands, "audit", _audit, "what is wrong with results, or with a table of others")
    add = parser.add_argument
    add("target", type=Path, metavar="RESULTS|TABLE", help="results/<sweep>, or a table as CSV or Markdown")
    numbers = {
        "samples-per-epoch": "training samples of an epoch",
        "epochs": "epochs behind total times",
        "eval-samples": "samples of each evaluation",
        "ranks": "ranks that may have been counted",
    }
    for name, what in numbers.items():
        add(f"--{name}", type=positive_count, metavar="N", help=f"of a table: {what}")
    add(
        "--column",
        action="append",
        default=[],
        metavar="FIELD=NAME",
        help="of a table: which column a quantity is; repeatable",
    )
    add_json(parser)


def _audit(given: argparse.Namespace) -> int:
    from hpcbench.audit.tables.foreign_table import StatedFacts
    from hpcbench.cli.audit_output import run_audit_command
    from hpcbench.cli.terminal_tables import console
    from hpcbench.report.results_audit import column_choices

    stated = StatedFacts(
        samples_per_epoch=given.samples_per_epoch,
        epochs=given.epochs,
        eval_samples=given.eval_samples,
        ranks=given.ranks,
        columns=column_choices(given.column),
    )
    return run_audit_command(given.target, stated, as_json=given.json, console=console())


def add_compare(commands: Commands) -> None:
    """Add the command `compare`."""
    parser = add_command(
        commands, "compare", _compare, "what has changed between two results of the same runs"
    )
    add = parser.add_argument
    add("old", type=Path, metavar="OLD", help="the results to compare with")
    add("new", type=Path, metavar="NEW", help="the results that are compared; exit status 1 if any got worse")
    add(
        "--tolerance", type=non_negative, default=2.0, metavar="PCT",
        help="a change up to this is none: per cent, for accuracies points (2)",
    )  # fmt: skip
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON")
    form.add_argument("--markdown", action="store_true", help="as Markdown")


def _compare(given: argparse.Namespace) -> int:
    from hpcbench.analysis.result_comparison import compare_results
    from hpcbench.cli.audit_output import comparison_json, comparison_markdown, print_comparison
    from hpcbench.cli.terminal_tables import console

    compared = compare_results(given.old, given.new, tolerance_pct=given.tolerance)
    if given.json:
        print(comparison_json(compared))
    elif given.markdown:
        print(comparison_markdown(compared), end="")
    else:
        print_comparison(compared, console())
    return 1 if compared.regressions else 0


def add_predict(commands: Commands) -> None:
    """Add the command `predict`."""
    parser = add_command(
        commands, "predict", _predict, "what the runs of a sweep should reach, from measured ceilings"
    )
    add = parser.add_argument
    add("sweep", type=Path, metavar="SWEEP.yaml", help="its runs, and up to twice their ranks")
    add_results_of(parser, "where the sweep has its results: ceilings, and what was measured")
    add("--ceilings", type=Path, metavar="FILE", help="ceilings of another node, as probe --out writes them")
    add_settings(parser)
    add_json(parser)


def _predict(given: argparse.Namespace) -> int:
    from hpcbench.catalog import CATALOG
    from hpcbench.cli.ceiling_output import predict_sweep
    from hpcbench.cli.terminal_tables import console
    from hpcbench.launch.machine_resources import this_machine
    from hpcbench.sweep.sweep_loading import load_sweep

    gpus = len(this_machine().gpus)
    sweep = load_sweep([given.sweep], CATALOG, settings=given.settings, default_gpus_per_node=gpus)
    return predict_sweep(sweep, given.results, given.ceilings, as_json=given.json, console=console())
