"""Rules about comparisons: they vary one factor, everything else is equal, and differences need repeats."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping

from hpcbench.analysis.pairwise_tests import RunPair
from hpcbench.analysis.run_figures import Observation, occupied_devices
from hpcbench.analysis.statistical_tests import MAX_REPEATS, MIN_PAIRED_BLOCKS
from hpcbench.audit.audit_findings import AuditRule, FindingScope, Severity
from hpcbench.audit.evidence import AuditedRow, RowComparison, most_frequent
from hpcbench.audit.rules import table_rules
from hpcbench.sweep.run_spec import flatten_fields

# What says nothing about how a run was done, or differs by its nature.
NOT_COMPARED = (
    "name", "repeat", "seed", "save_weights", "probe", "measure_exchange", "timeout_s", "teaching", "smoke",
    "declared_id", "data_shards", "updates_per_step", "servers",
)  # fmt: skip
NOT_COMPARED_PARTS = ("resources", "container")

# What may differ as well, because it follows from what a group compares.
CONSEQUENCES: dict[str, tuple[str, ...]] = {
    "strategy": ("strategy_options", "backend", "ranks", "devices", "batch_size", "accumulation"),
    "strategy_options": ("ranks", "batch_size"),
    "ranks": ("batch_size", "global_batch", "backend", "devices"),
    "devices": ("batch_size", "global_batch", "ranks"),
    "batch_size": ("global_batch", "accumulation"),
    "global_batch": ("batch_size", "accumulation"),
    "backend": ("device",),
    "device": ("backend", "ranks", "devices", "batch_size"),
    "model": ("stem",),
    "dataset": ("dataset_options",),
    "epochs": ("steps",),
    "steps": ("epochs",),
}
CHANGE_STEPS = ("global_batch", "dataset", "dataset_options", "steps_per_epoch")
FEWEST_POINTS = 1.0  # of accuracy that two runs of equal recipe may always differ by
STANDARD_ERRORS = 3.0


def recipe_differs(comparison: RowComparison) -> Iterable[Observation]:
    """Name, for each row of a group, the fields that differ from the usual beside the group's factor."""
    fields = {row.experiment: _fields(row) for row in comparison.rows}
    differing = _unexplained(comparison, fields)
    expected = {path: most_frequent([repr(each.get(path)) for each in fields.values()]) for path in differing}
    for experiment, values in fields.items():
        wrong = [path for path in differing if repr(values.get(path)) != expected[path]]
        if wrong:
            told = ", ".join(f"{path} {values.get(path)!r} instead of {expected[path]}" for path in wrong)
            yield Observation(
                row=experiment,
                message=f"{comparison.title} compares {' and '.join(comparison.factor)}, and here differs "
                f"also: {told}",
                figures={"group": comparison.title, "fields": {path: values.get(path) for path in wrong}},
            )


def _fields(row: AuditedRow) -> dict[str, object]:
    """Return the properties of a run that a comparison has to hold equal, by dotted path."""
    known = flatten_fields(row.spec.to_json()) | {"global_batch": row.spec.global_batch}
    return {
        path: value
        for path, value in known.items()
        if path not in NOT_COMPARED and path.split(".")[0] not in NOT_COMPARED_PARTS
    }


def _unexplained(comparison: RowComparison, fields: Mapping[str, Mapping[str, object]]) -> list[str]:
    paths = sorted({path for values in fields.values() for path in values})
    different = [path for path in paths if len({repr(values.get(path)) for values in fields.values()}) > 1]
    heads = {factor.split(".")[0] for factor in comparison.factor}
    explained = set(comparison.factor) | {path for head in heads for path in CONSEQUENCES.get(head, ())}
    rest = [path for path in different if path not in explained and path.split(".")[0] not in explained]
    # With one global batch, the batch of each rank is only how it is split.
    return rest if "global_batch" in different else [path for path in rest if path != "batch_size"]


def steps_per_epoch_differ(comparison: RowComparison) -> Iterable[Observation]:
    """Find rows of a group that update the weights a different number of times in an epoch."""
    updates = {
        row.experiment: started.steps_per_epoch * row.spec.updates_per_step
        for row in comparison.rows
        if (started := row.repeats[0].history.started) and started.steps_per_epoch
    }
    if len(set(updates.values())) < 2 or _steps_follow(comparison):
        return
    expected = most_frequent(list(updates.values()))
    specs = {row.experiment: row.spec for row in comparison.rows}
    for experiment, number in updates.items():
        batch = specs[experiment].global_batch
        # An epoch drops what does not fill a step, which may be several updates.
        if abs(number - expected) >= specs[experiment].updates_per_step:
            yield Observation(
                row=experiment,
                message=f"{comparison.title}: an epoch has {number:,} updates of {batch} samples, "
                f"and {expected:,} in the other rows",
                figures={
                    "group": comparison.title,
                    "updates_per_epoch": number,
                    "usual_updates_per_epoch": expected,
                    "global_batch": batch,
                },
            )


def _steps_follow(comparison: RowComparison) -> bool:
    heads = [factor.split(".")[0] for factor in comparison.factor]
    return any(path in CHANGE_STEPS for head in heads for path in (head, *CONSEQUENCES.get(head, ())))


def find_slower_than_one_device(comparison: RowComparison) -> Iterable[Observation]:
    """Find runs on several devices that one device of the same kind beats."""
    alone: dict[Hashable, tuple[float, str]] = {}
    for row in comparison.rows:
        speed = _throughput(row)
        key = _device_kind(row)
        if occupied_devices(row.spec) == 1 and speed and speed > alone.get(key, (0.0, ""))[0]:
            alone[key] = (speed, row.experiment)
    for row in comparison.rows:
        speed, one = _throughput(row), alone.get(_device_kind(row))
        if one and speed and occupied_devices(row.spec) > 1 and speed < one[0]:
            yield Observation(
                row=row.experiment,
                message=f"{occupied_devices(row.spec)} devices reach {speed:,.0f} samples/s, and one reaches "
                f"{one[0]:,.0f} ({one[1]})",
                figures={"throughput_samples_s": speed, "one_device_samples_s": one[0], "one_device": one[1]},
            )


def _device_kind(row: AuditedRow) -> Hashable:
    return row.spec.device, row.spec.precision, row.spec.cache


def _throughput(row: AuditedRow) -> float | None:
    speeds = [repeat.figures.throughput_samples_s for repeat in row.repeats if repeat.figures]
    values = [speed for speed in speeds if speed is not None]
    return statistics.fmean(values) if values else None


def find_cache_changes_learning(comparison: RowComparison) -> Iterable[Observation]:
    """Compare the last accuracies of runs that differ in nothing but their cache."""
    if all(row.spec.cache == "none" for row in comparison.rows):
        return
    alike: dict[str, list[AuditedRow]] = defaultdict(list)
    for row in comparison.rows:
        fields = {path: value for path, value in _fields(row).items() if path != "cache"}
        alike[repr(sorted(fields.items()))].append(row)
    for rows in alike.values():
        plain = next((row for row in rows if row.spec.cache == "none"), None)
        for row in rows:
            if plain is not None and row is not plain and row.spec.cache != plain.spec.cache:
                yield from _accuracy_gap(row, plain)


def _accuracy_gap(cached: AuditedRow, plain: AuditedRow) -> Iterable[Observation]:
    first, second = _final_accuracies(cached), _final_accuracies(plain)
    if not first or not second:
        return
    a, b = statistics.fmean(first), statistics.fmean(second)
    started = plain.repeats[0].history.started
    samples = (started.evaluation_samples if started else None) or 1
    share = min(max(b / 100, 0.01), 0.99)
    # Binomial error of both accuracies, whatever the number of repeats: they see the same samples.
    error = 100 * math.sqrt(2 * share * (1 - share) / samples)
    if abs(a - b) <= max(FEWEST_POINTS, STANDARD_ERRORS * error):
        return
    yield Observation(
        row=cached.experiment,
        message=f"with the cache the last accuracy is {a:.2f} %, and {b:.2f} % without it "
        f"({plain.experiment}): {abs(a - b):.1f} points at equal recipe",
        figures={"acc_pct": a, "acc_without_cache_pct": b, "without_cache": plain.experiment},
    )


def _final_accuracies(row: AuditedRow) -> list[float]:
    found = [list(repeat.accuracies().values()) for repeat in row.repeats]
    return [accuracies[-1] for accuracies in found if accuracies]


COMPARISON_RULES = (
    AuditRule(
        code="recipe-differs",
        severity=Severity.ERROR,
        scope=FindingScope.GROUP,
        what="A comparison compares more than what it says: recipes, not strategies.",
        when="Records: rows of a group differ in a field that is neither its factor nor follows from it "
        "(a batch brings its steps, a strategy its options, backend and ranks). The value of most rows is "
        "taken for usual. Tables: the accuracy of a synchronous strategy is more than 2 points below the "
        "median of at least three other rows with the same model and global batch, without a cache, whose "
        "names say nothing else.",
        advice="Make these fields equal, or compare them on purpose in a group of their own.",
        source="docs/methodology.md, M12; both studies",
        of_group=recipe_differs,
        of_table=table_rules.learns_less_than_similar_rows,
    ),
    AuditRule(
        code="steps-per-epoch-differ",
        severity=Severity.ERROR,
        scope=FindingScope.GROUP,
        what="Rows that are compared update the weights a different number of times in an epoch.",
        when="Steps per epoch differ inside a group whose factor does not bring that along.",
        advice="Use one global batch for all rows (global_batch instead of batch_size).",
        source="docs/methodology.md, M12; study 1: 1252 updates against 1669",
        of_group=steps_per_epoch_differ,
    ),
    AuditRule(
        code="slower-than-one-device",
        severity=Severity.WARNING,
        scope=FindingScope.GROUP,
        what="Several devices are slower than one.",
        when="A run on more than one device has a lower throughput than the fastest run on one device of "
        "the same kind, class, precision and cache. Tables: the same model, global batch, cache and "
        "precision.",
        advice="Look at data wait and exchange of both: the input pipeline or the link binds, not the "
        "devices.",
        source="docs/methodology.md, M12; study 2",
        of_class=find_slower_than_one_device,
        of_table=table_rules.table_slower_than_one_device,
    ),
    AuditRule(
        code="cache-changes-learning",
        severity=Severity.ERROR,
        scope=FindingScope.RUN,
        what="A cache changes what is learnt. It may change the speed and nothing else.",
        when="Two runs that differ in nothing but the cache end with accuracies that are further apart "
        "than 1 point (tables: 2) and three standard errors of the evaluation.",
        advice="Cache samples before augmentation, and augment them anew in every epoch.",
        source="docs/methodology.md, M12; study 2: 74.2 % without, 56.2 % with a cache",
        of_class=find_cache_changes_learning,
        of_table=table_rules.table_cache_changes_learning,
    ),
    AuditRule(
        code="batch-size-ambiguous",
        severity=Severity.WARNING,
        scope=FindingScope.SWEEP,
        what="One column of batch sizes means two things.",
        when="Tables: the batch of some rows is their global batch and of others that of each worker, by "
        "their names.",
        advice="State the batch of each rank and the global batch in two columns.",
        source="docs/methodology.md, M12; study 2",
        of_table=table_rules.batch_size_ambiguous,
    ),
)


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
