"""Tables about limits: how far each run is from its prediction, what limits it, and the links of the
nodes;

`ceilings.csv`.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence

from hpcbench.analysis.derived_columns import limit_columns
from hpcbench.analysis.figure_registry import FIGURES, ReportRow
from hpcbench.analysis.limit_analysis import MeasuredVsPredicted
from hpcbench.ceilings.ceiling_records import LinkCeiling
from hpcbench.ceilings.link_fit import bandwidths, fit_link
from hpcbench.ceilings.node_ceilings import Ceilings
from hpcbench.ceilings.step_prediction import LimitingResource, MissingCeiling
from hpcbench.report.study_tables import ReportTable
from hpcbench.report.table_cells import EMPTY_CELL, cell_text, format_number, sample_unit
from hpcbench.report.translations import N_, Language

LIMIT_NAMES = {
    LimitingResource.COMPUTE: N_("compute"),
    LimitingResource.INPUT: N_("input"),
    LimitingResource.LINK: N_("link"),
    LimitingResource.MEMORY: N_("memory"),
    LimitingResource.LATENCY: N_("latency"),
    LimitingResource.EVALUATION: N_("evaluation"),
}
LIMIT_EXPLANATIONS = {
    LimitingResource.COMPUTE: N_("computing takes most of a step"),
    LimitingResource.INPUT: N_("data loading is the limit"),
    LimitingResource.LINK: N_("moving gradients and parameters takes most of a step"),
    LimitingResource.MEMORY: N_("memory is full"),
    LimitingResource.LATENCY: N_("starting operations and messages takes most of a step, not their size"),
    LimitingResource.EVALUATION: N_("evaluation takes longer than training"),
}
EXCESS_NAMES = {
    "data_wait": N_("waiting for data"),
    "work": N_("computing and exchanging"),
    "other": N_("time outside the named phases"),
}  # where time beyond the prediction goes
LIMITS_NOTE = N_(
    "Predicted from what this node can do at most, each part measured alone: computing, loading, "
    "sending (docs/ceilings.md). A star marks a prediction for which a ceiling was carried over from "
    "another batch or another number of ranks. MFU is counted FLOP over the measured rate of matrix "
    "products."
)
EXPLAINED_BELOW = 0.9  # of the prediction: below it the sentence says where the rest goes
CEILINGS_CSV_COLUMNS = (
    "experiment", "limit", "step_s", "predicted_step_s", "of_predicted_pct", "throughput_samples_s",
    "predicted_samples_s", "compute_s", "fixed_s", "skew_s", "input_s", "exchange_s", "exposed_s", "overlap",
    "mfu_pct", "compute_ceiling_samples_s", "input_ceiling_samples_s", "extrapolated", "assumed", "left_out",
    "missing",
)  # fmt: skip


def limit_tables(
    standings: Mapping[str, MeasuredVsPredicted],
    ceilings: Ceilings,
    rows: Sequence[ReportRow],
    language: Language,
) -> list[ReportTable]:
    """Return a table of limits for each class, how far predictions are off, and the links of the nodes."""
    classes: dict[str, list[ReportRow]] = {}
    for row in rows:
        if row["experiment"] in standings:
            classes.setdefault(str(row["class"]), []).append(row)
    tables = [_class_table(label, members, standings, language) for label, members in classes.items()]
    return [
        each
        for each in (*tables, _errors_table(standings, language), _links_table(ceilings, language))
        if each
    ]


def limit_sentence(standing: MeasuredVsPredicted, unit: str, language: Language) -> str:
    """Say in one sentence how far a run is from its prediction, what binds, and where the rest goes."""
    limit = standing.limit
    binds = language.text(LIMIT_EXPLANATIONS[limit]) if limit else ""
    if isinstance(standing.predicted, MissingCeiling):
        return (
            language.text(
                "not predicted ({missing}); {binds}", missing=standing.predicted.missing, binds=binds
            )
            + language.stop
        )
    reached = standing.of_predicted
    if reached is None:
        return language.text("no throughput was measured; {binds}", binds=binds) + language.stop
    sentence = language.text(
        "{pct} % of the {predicted} {unit}/s that its ceilings predict; {binds}",
        pct=f"{100 * reached:.0f}",
        predicted=format_number(standing.predicted.samples_s),
        unit=unit,
        binds=binds,
    )
    excess = standing.excess
    if reached < EXPLAINED_BELOW and excess:
        sentence += language.text(
            "; beyond the prediction a step spends {ms} ms on {what}",
            what=language.text(EXCESS_NAMES[excess[0]]),
            ms=format_number(1000 * excess[1]),
        )
    return sentence + language.stop


def limits_csv(standings: Mapping[str, MeasuredVsPredicted]) -> str:
    """Return `ceilings.csv`: one line a row of the ranking that trains, with the parts of its prediction."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CEILINGS_CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for standing in standings.values():
        writer.writerow(_csv_row(standing))
    return text.getvalue()


def _csv_row(standing: MeasuredVsPredicted) -> dict[str, object]:
    row: dict[str, object] = {
        "experiment": standing.experiment, "limit": standing.limit, "step_s": standing.step_s,
        "throughput_samples_s": standing.samples_s, **limit_columns(standing),
        "compute_ceiling_samples_s": standing.compute_samples_s,
        "input_ceiling_samples_s": standing.input_samples_s,
    }  # fmt: skip
    predicted = standing.predicted
    if isinstance(predicted, MissingCeiling):
        return row | {"missing": predicted.missing}
    return row | {
        "predicted_step_s": predicted.step_s, "compute_s": predicted.compute_s, "fixed_s": predicted.fixed_s,
        "skew_s": predicted.skew_s,
        "input_s": predicted.input_s, "exchange_s": predicted.exchange_s, "exposed_s": predicted.exposed_s,
        "overlap": predicted.overlap, "extrapolated": predicted.extrapolated,
        "assumed": "; ".join(predicted.assumed), "left_out": "; ".join(predicted.left_out),
    }  # fmt: skip


def _class_table(
    label: str, rows: Sequence[ReportRow], standings: Mapping[str, MeasuredVsPredicted], language: Language
) -> ReportTable:
    unit = sample_unit(list(rows))
    body: list[tuple[str, ...]] = []
    heads = (
        language.text("experiment"), f"{unit}/s", language.text("predicted {unit}/s", unit=unit),
        language.text("% of predicted"),
        language.text("limit"), language.text("MFU %"), language.text("explanation"),
    )  # fmt: skip
    for row in rows:
        standing = standings[row["experiment"]]
        figures = limit_columns(standing)
        mark = (
            "*"
            if not isinstance(standing.predicted, MissingCeiling) and standing.predicted.extrapolated
            else ""
        )
        body.append((
            row["experiment"], format_number(standing.samples_s),
            cell_text(FIGURES["predicted_samples_s"], figures) + mark,
            cell_text(FIGURES["of_predicted_pct"], figures),
            language.text(LIMIT_NAMES[standing.limit]) if standing.limit else EMPTY_CELL,
            cell_text(FIGURES["mfu_pct"], figures),
            limit_sentence(standing, unit, language),
        ))  # fmt: skip
    return ReportTable(label, heads, body)


def prediction_errors(standings: Mapping[str, MeasuredVsPredicted]) -> dict[str, list[float]]:
    """Return predicted over measured step time, less 1, of each measured run, by strategy."""
    found: dict[str, list[float]] = {}
    for standing in standings.values():
        if standing.error is not None:
            found.setdefault(standing.spec.strategy, []).append(standing.error)
    return found


def _errors_table(standings: Mapping[str, MeasuredVsPredicted], language: Language) -> ReportTable | None:
    found = prediction_errors(standings)
    if not found:
        return None
    heads = (
        language.text("strategy"),
        language.text("runs"),
        language.text("median error of the step time"),
        language.text("largest"),
    )
    body: list[tuple[str, ...]] = [
        (
            strategy, str(len(errors)), f"{100 * statistics.median(map(abs, errors)):.0f} %",
            f"{100 * max(errors, key=abs):+.0f} %",
        )
        for strategy, errors in sorted(found.items())
    ]  # fmt: skip
    return ReportTable(language.text("How far predictions are off"), heads, body)


def _links_table(ceilings: Ceilings, language: Language) -> ReportTable | None:
    body: list[tuple[str, ...]] = []
    for record in ceilings.records:
        link = record.ceiling
        if not isinstance(link, LinkCeiling):
            continue
        fitted, largest = fit_link(link), bandwidths(link)[-1]
        body.append((
            f"{record.host}: {link.operation} {link.backend}", str(link.ranks),
            format_number(1e6 * fitted.latency_s),
            format_number(largest.algbw_bytes_s / 1e9), format_number(largest.busbw_bytes_s / 1e9),
            str(len(fitted.lines)),
            format_number(fitted.tail),
            _share_text(fitted.left_out_error), _share_text(fitted.repeatability),
        ))  # fmt: skip
    heads = (
        language.text("link"), language.text("ranks"), language.text("latency µs"),
        language.text("algbw GB/s"), language.text("busbw GB/s"), language.in_context("fit", "lines"),
        language.text("mean/quartile"),
        language.text("error at left-out sizes"), language.text("repeatability"),
    )  # fmt: skip
    return ReportTable(language.text("Links"), heads, body) if body else None


def _share_text(value: float | None) -> str:
    return EMPTY_CELL if value is None else f"{100 * value:.1f} %"
