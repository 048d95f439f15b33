"""Rules about tables without records behind them; rules of other topics use these functions as well."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence

from hpcbench.analysis.run_figures import Observation
from hpcbench.audit.audit_findings import AuditRule, FindingScope, Severity
from hpcbench.audit.tables.foreign_table import ForeignRow, ForeignTable
from hpcbench.audit.tables.table_headers import NOT_SYNCHRONOUS

RATIO_TOLERANCE = 0.01  # a mean of rates and the rounding of tables stay below this
MAX_FITTED_RANKS = 64


def fitting_ranks(factor: float, most: int = MAX_FITTED_RANKS) -> tuple[int, int] | None:
    """Return (ranks counted, ranks training) of the smallest number whose ratio is the factor within 1 %."""
    for counted in range(2, most + 1):
        training = round(counted / factor)
        if 1 <= training < counted and abs(counted / training / factor - 1) <= RATIO_TOLERANCE:
            return counted, training
    return None


USUAL_EVALUATION_SHARE = 1 / 5  # of the training set: CIFAR's 10,000 for 50,000; ImageNet's is 1/26
MIN_ACCURACY_GAP = 2.0  # of accuracy, between two single runs
GAP_STANDARD_ERRORS = 3.0
MIN_OTHER_ROWS = 3


def table_samples_not_conserved(table: ForeignTable) -> Iterable[Observation]:
    """Hold throughput x time against the samples that were to be processed."""
    samples, epochs = table.stated.samples_per_epoch, table.stated.epochs
    for row in table.rows if samples else ():
        speed = row.throughput_samples_s
        if speed is None or not samples:
            continue
        if row.epoch_time_s is not None and abs(speed * row.epoch_time_s / samples - 1) > RATIO_TOLERANCE:
            yield _product_observation(table, row, speed, row.epoch_time_s, samples, "an epoch")
        elif (
            row.total_time_s is not None
            and epochs
            and speed * row.total_time_s < (1 - RATIO_TOLERANCE) * samples * epochs
        ):
            yield _product_observation(
                table, row, speed, row.total_time_s, samples * epochs, f"{epochs} epochs"
            )


def _product_observation(
    table: ForeignTable, row: ForeignRow, speed: float, time_s: float, samples: int, what: str
) -> Observation:
    factor = speed * time_s / samples
    honest = samples / time_s
    told = (
        f"{speed:,.2f} samples/s x {time_s:,.2f} s = {speed * time_s:,.0f} samples, {factor:.3f} times the "
        f"{samples:,} of {what}"
    )
    figures = {"factor": factor, "product": speed * time_s, "samples": samples, "samples_over_time_s": honest}
    if factor < 1:
        return Observation(
            row=row.name,
            message=f"{told}: the time is too short for all samples at this throughput, or samples were "
            "left uncounted",
            figures=figures,
        )
    outside = 1 - 1 / factor
    fit = _fit_ranks(factor, table.stated.ranks)
    reading = f" ({fit[0]}/{fit[1]} fits {fit[0]} ranks counted and {fit[1]} training)" if fit else ""
    if fit:
        figures |= {"ranks_counted": fit[0], "ranks_training": fit[1]}
    return Observation(
        row=row.name,
        message=f"{told}. Either samples were counted {factor:.3f} times too high{reading}, and the "
        f"throughput was {honest:,.0f} samples/s; or {outside:.1%} (1 - 1/{factor:.3f}) of the time lies "
        "outside the throughput's clock. A table cannot tell the two apart",
        figures={**figures, "outside_share": outside},
    )


def _fit_ranks(factor: float, ranks: int | None) -> tuple[int, int] | None:
    if ranks is None:
        return fitting_ranks(factor)
    training = round(ranks / factor)
    fits = 1 <= training < ranks and abs(ranks / training / factor - 1) <= RATIO_TOLERANCE
    return (ranks, training) if fits else None


def table_time_unaccounted(table: ForeignTable) -> Iterable[Observation]:
    """Find total times that training and a generous evaluation together do not explain."""
    samples, epochs = table.stated.samples_per_epoch, table.stated.epochs
    if not samples or not epochs:
        return
    said = table.stated.eval_samples
    evaluated = samples * USUAL_EVALUATION_SHARE if said is None else said
    assumed = "" if said is not None else " (a fifth of the training set, since --eval-samples was not said)"
    for row in table.rows:
        speed, total_s = row.throughput_samples_s, row.total_time_s
        if speed is None or total_s is None:
            continue
        train_s, granted_s = samples * epochs / speed, evaluated * epochs / speed
        rest_s = total_s - train_s
        if rest_s <= granted_s:
            continue
        yield Observation(
            row=row.name,
            message=f"{epochs} x {samples:,} samples at {speed:,.1f} samples/s take {train_s:,.0f} s of "
            f"the {total_s:,.0f} s: {rest_s / total_s:.1%} of the time is unexplained. Evaluating "
            f"{evaluated:,.0f} samples an epoch{assumed} at the cost of training would explain "
            f"{granted_s / total_s:.1%}",
            figures={
                "unexplained_share": rest_s / total_s,
                "unexplained_s": rest_s,
                "train_s": train_s,
                "total_time_s": total_s,
                "evaluation_at_most_s": granted_s,
            },
        )


def table_slower_than_one_device(table: ForeignTable) -> Iterable[Observation]:
    """Find rows of several devices that one device with the same work beats."""
    best: dict[object, tuple[float, str]] = {}
    for row in table.rows:
        speed = row.throughput_samples_s
        if row.devices == 1 and speed is not None and speed > best.get(_work_key(row), (0.0, ""))[0]:
            best[_work_key(row)] = (speed, row.name)
    for row in table.rows:
        several = (row.devices or 0) > 1 or (row.devices is None and row.facts.several)
        one, speed = best.get(_work_key(row)), row.throughput_samples_s
        if several and one is not None and speed is not None and speed < one[0]:
            number = f"{row.devices} devices" if row.devices else "several devices"
            yield Observation(
                row=row.name,
                message=f"{number} reach {speed:,.1f} samples/s, {speed / one[0]:.2f} times the "
                f"{one[0]:,.1f} of one ({one[1]})",
                figures={"ratio": speed / one[0], "one_device": one[1]},
            )


def _work_key(row: ForeignRow) -> object:
    return row.model, row.cache, row.amp, global_batch(row)


def global_batch(row: ForeignRow) -> int | None:
    """Return the samples of an update: as the name says it, else as the column does."""
    return row.facts.global_batch or row.batch


def table_cache_changes_learning(table: ForeignTable) -> Iterable[Observation]:
    """Compare the accuracies of rows that differ in nothing but their cache."""
    keyed: dict[tuple[object, ...], list[ForeignRow]] = {}
    for row in table.rows:
        if row.acc_pct is not None:
            key = (row.facts.without_cache, row.model, global_batch(row), row.devices, row.amp)
            keyed.setdefault(key, []).append(row)
    for rows in keyed.values():
        plain = [row for row in rows if not row.cache]
        for row in rows:
            if row.cache and plain and plain[0].acc_pct is not None and row.acc_pct is not None:
                gap = row.acc_pct - plain[0].acc_pct
                if abs(gap) > _largest_chance_gap(plain[0].acc_pct, table.stated.eval_samples):
                    yield Observation(
                        row=row.name,
                        message=f"{row.acc_pct:.2f} % with the cache and {plain[0].acc_pct:.2f} % without "
                        f"it ({plain[0].name}): {abs(gap):.1f} points at equal recipe",
                        figures={"gap_points": gap, "without_cache": plain[0].name},
                    )


def _largest_chance_gap(acc_pct: float, eval_samples: int | None) -> float:
    if not eval_samples:
        return MIN_ACCURACY_GAP
    share = min(max(acc_pct / 100, 0.0), 1.0)
    return max(
        MIN_ACCURACY_GAP, GAP_STANDARD_ERRORS * 100 * math.sqrt(2 * share * (1 - share) / eval_samples)
    )


def learns_less_than_similar_rows(table: ForeignTable) -> Iterable[Observation]:
    """Find synchronous rows that learn much less than the others with the same model and global batch."""
    alike: dict[object, list[tuple[ForeignRow, float]]] = {}
    for row in table.rows:
        strategy = row.facts.strategy
        # A name that says more (a learning rate, say) may have a recipe of its own, and says so.
        known = row.facts.explained and row.model is not None and global_batch(row) is not None
        # What a cache does is a matter of its own.
        if known and strategy not in NOT_SYNCHRONOUS and not row.cache and row.acc_pct is not None:
            alike.setdefault((row.model, global_batch(row)), []).append((row, row.acc_pct))
    for rows in alike.values():
        accuracies = sorted(accuracy for _, accuracy in rows)
        for row, accuracy in rows if len(rows) > MIN_OTHER_ROWS else ():
            usual = _median_without(accuracies, accuracy)
            if usual - accuracy > _largest_chance_gap(usual, table.stated.eval_samples):
                yield _learns_less(row, accuracy, usual, len(rows) - 1)


def _median_without(ordered: Sequence[float], value: float) -> float:
    """Return the median of at least two ordered values without one of them."""
    out, n = bisect_left(ordered, value), len(ordered) - 1
    middle = ((n - 1) // 2, n // 2)
    return sum(ordered[at if at < out else at + 1] for at in middle) / 2


def _learns_less(row: ForeignRow, accuracy: float, usual: float, others: int) -> Observation:
    return Observation(
        row=row.name,
        message=f"{accuracy:.2f} % where the median of the {others} other rows of {row.model} with global "
        f"batch {global_batch(row)} is {usual:.2f} %: a recipe or an input pipeline of its own, or a "
        "broken exchange; the strategy is not what differs",
        figures={"acc_pct": accuracy, "usual_acc_pct": usual, "others": others},
    )


def batch_size_ambiguous(table: ForeignTable) -> Iterable[Observation]:
    """Find the rows whose batch means something else than that of most rows."""
    told = {}
    for row in table.rows:
        each, total = row.facts.batch, row.facts.global_batch
        if row.batch is not None and each is not None and each != total and row.batch in (each, total):
            told[row.name] = (row, row.batch == total)
    globally = sum(is_global for _, is_global in told.values())
    if not 0 < globally < len(told):
        return
    usual = globally * 2 >= len(told)
    for name, (row, is_global) in told.items():
        if is_global is not usual:
            means, others = ("global batch", "batch of each worker") if is_global else (
                "batch of each worker", "global batch")  # fmt: skip
            yield Observation(
                row=name,
                message=f"its batch of {row.batch} is the {means}, and that of most rows their {others}",
                figures={"batch": row.batch, "global_batch": row.facts.global_batch},
            )


def no_repeats(table: ForeignTable) -> Iterable[Observation]:
    """State that a table says nothing of repeats."""
    if "repeats" not in table.columns:
        yield Observation(
            message="no column states repeats or a spread: no difference between these rows can be called "
            "real"
        )


def unreadable_cells(table: ForeignTable) -> Iterable[Observation]:
    """Name each row that has a cell which could not be used."""
    return table.problems


TABLE_RULES = (
    AuditRule(
        code="unreadable-cell",
        severity=Severity.WARNING,
        scope=FindingScope.RUN,
        what="A cell that should hold a number does not, and was left out.",
        when="Text, a formula, HTML, another unit than the column's, a number that is not positive. "
        "Nothing in a table is evaluated or interpreted.",
        advice="Write plain numbers, and the unit into the header.",
        source="docs/methodology.md, M2",
        of_table=unreadable_cells,
    ),
)
