"""What a report tells of limits: how far each run is from its prediction, what binds, and the links."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence

from hpcbench.analysis.limit_analysis import MeasuredVsPredicted
from hpcbench.catalog import CATALOG
from hpcbench.ceilings.ceiling_records import LinkCeiling
from hpcbench.ceilings.link_fit import bandwidths, fit_link
from hpcbench.ceilings.node_ceilings import Ceilings
from hpcbench.ceilings.step_prediction import MissingCeiling, StepPrediction
from hpcbench.report.cells import NOTHING, Row, number, unit_of
from hpcbench.report.studies import StudyTable
from hpcbench.report.words import Words

MODEL_BLOCKS = {name: entry.blocks for name, entry in CATALOG.models.items()}
WORTH_EXPLAINING = 0.9  # of the prediction: below it the sentence says where the rest goes
CSV_COLUMNS = (
    "experiment", "limit", "step_s", "predicted_step_s", "of_predicted_pct", "throughput_samples_s",
    "predicted_samples_s", "compute_s", "fixed_s", "skew_s", "input_s", "exchange_s", "exposed_s", "overlap",
    "mfu_pct", "compute_ceiling_samples_s", "input_ceiling_samples_s", "extrapolated", "assumed", "left_out",
    "missing",
)  # fmt: skip


def limit_columns(standing: MeasuredVsPredicted | None) -> Row:
    """Return what a row of the ranking gets: prediction, how much of it was reached, MFU."""
    predicted = standing.predicted if standing else None
    reached = standing.of_predicted if standing else None
    return {
        "predicted_samples_s": predicted.samples_s if isinstance(predicted, StepPrediction) else None,
        "of_predicted_pct": None if reached is None else 100 * reached,
        "mfu_pct": standing.mfu_pct if standing else None,
    }


def limit_tables(
    standings: Mapping[str, MeasuredVsPredicted], ceilings: Ceilings, rows: Sequence[Row], words: Words
) -> list[StudyTable]:
    """Return a table of limits for each class, how far predictions are off, and the links of the nodes."""
    classes: dict[str, list[Row]] = {}
    for row in rows:
        if row["experiment"] in standings:
            classes.setdefault(str(row["class"]), []).append(row)
    tables = [_class_table(label, members, standings, words) for label, members in classes.items()]
    return [
        each for each in (*tables, _errors_table(standings, words), _links_table(ceilings, words)) if each
    ]


def sentence(standing: MeasuredVsPredicted, unit: str, words: Words) -> str:
    """Say in one sentence how far a run is from its prediction, what binds, and where the rest goes."""
    said, limit = words.limits, standing.limit
    binds = said[f"binds_{limit}"] if limit else ""
    if isinstance(standing.predicted, MissingCeiling):
        return said["unpredicted"].format(missing=standing.predicted.missing, binds=binds) + words.stop
    reached = standing.of_predicted
    if reached is None:
        return said["unmeasured"].format(binds=binds) + words.stop
    told = said["reached"].format(
        pct=f"{100 * reached:.0f}", predicted=number(standing.predicted.samples_s), unit=unit, binds=binds
    )
    excess = standing.excess
    if reached < WORTH_EXPLAINING and excess:
        told += said["excess"].format(what=said[excess[0]], ms=number(1000 * excess[1]))
    return told + words.stop


def limits_csv(standings: Mapping[str, MeasuredVsPredicted]) -> str:
    """Return `ceilings.csv`: one line a row of the ranking that trains, with the parts of its prediction."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for standing in standings.values():
        writer.writerow(_csv_row(standing))
    return text.getvalue()


def _csv_row(standing: MeasuredVsPredicted) -> dict[str, object]:
    reached, told = standing.of_predicted, limit_columns(standing)
    row: dict[str, object] = {
        "experiment": standing.experiment, "limit": standing.limit, "step_s": standing.step_s,
        "of_predicted_pct": None if reached is None else 100 * reached,
        "throughput_samples_s": standing.samples_s, "mfu_pct": standing.mfu_pct,
        "predicted_samples_s": told["predicted_samples_s"],
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
    label: str, rows: Sequence[Row], standings: Mapping[str, MeasuredVsPredicted], words: Words
) -> StudyTable:
    said, unit = words.limits, unit_of(list(rows))
    body: list[tuple[str, ...]] = []
    heads = (
        words.columns["experiment"], f"{unit}/s", said["predicted"].format(unit=unit), said["of_predicted"],
        words.columns["limit"], words.columns["mfu_pct"], said["said"],
    )  # fmt: skip
    for row in rows:
        standing = standings[row["experiment"]]
        told = limit_columns(standing)
        mark = (
            "*"
            if not isinstance(standing.predicted, MissingCeiling) and standing.predicted.extrapolated
            else ""
        )
        body.append((
            row["experiment"], number(standing.samples_s),
            number(told["predicted_samples_s"]) + mark, _pct(told["of_predicted_pct"]),
            said[f"limit_{standing.limit}"] if standing.limit else NOTHING, _pct(told["mfu_pct"]),
            sentence(standing, unit, words),
        ))  # fmt: skip
    return StudyTable(label, heads, body)


def prediction_errors(standings: Mapping[str, MeasuredVsPredicted]) -> dict[str, list[float]]:
    """Return predicted over measured step time, less 1, of each measured run, by strategy."""
    found: dict[str, list[float]] = {}
    for standing in standings.values():
        if standing.error is not None:
            found.setdefault(standing.spec.strategy, []).append(standing.error)
    return found


def _errors_table(standings: Mapping[str, MeasuredVsPredicted], words: Words) -> StudyTable | None:
    said, found = words.limits, prediction_errors(standings)
    if not found:
        return None
    heads = (words.columns["strategy"], said["runs"], said["median_error"], said["largest_error"])
    body: list[tuple[str, ...]] = [
        (
            strategy, str(len(errors)), f"{100 * statistics.median(map(abs, errors)):.0f} %",
            f"{100 * max(errors, key=abs):+.0f} %",
        )
        for strategy, errors in sorted(found.items())
    ]  # fmt: skip
    return StudyTable(said["errors"], heads, body)


def _links_table(ceilings: Ceilings, words: Words) -> StudyTable | None:
    said = words.limits
    body: list[tuple[str, ...]] = []
    for record in ceilings.records:
        link = record.ceiling
        if not isinstance(link, LinkCeiling):
            continue
        fitted, largest = fit_link(link), bandwidths(link)[-1]
        body.append((
            f"{record.host}: {link.operation} {link.backend}", str(link.ranks),
            number(1e6 * fitted.latency_s),
            number(largest.algbw_bytes_s / 1e9), number(largest.busbw_bytes_s / 1e9), str(len(fitted.lines)),
            number(fitted.tail),
            _share(fitted.left_out_error), _share(fitted.repeatability),
        ))  # fmt: skip
    heads = (
        said["link"], words.columns["ranks"], said["alpha"], said["algbw"], said["busbw"], said["ranges"],
        said["tail"], said["left_out"], said["repeatability"],
    )  # fmt: skip
    return StudyTable(said["links"], heads, body) if body else None


def _pct(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1f}"


def _share(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.1f} %"
