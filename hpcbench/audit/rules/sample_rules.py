"""Rules about samples: each is trained on, and evaluated, as often as the figures say."""

from __future__ import annotations

from collections.abc import Iterable

from hpcbench.analysis.run_figures import FinishedRepeat, Observation
from hpcbench.audit.audit_findings import AuditRule, FindingScope, Severity
from hpcbench.audit.rules import table_rules
from hpcbench.audit.rules.table_rules import RATIO_TOLERANCE, fitting_ranks


def counted_per_epoch(repeat: FinishedRepeat) -> Iterable[tuple[int, int, int]]:
    """Yield (epoch, samples counted, samples that its steps consume) of each whole epoch.

    An epoch drops its remainder: what counts is steps x samples per step, not the size of the training set.
    """
    for epoch, ends in repeat.history.epochs.items():
        windows = repeat.history.windows.of_epoch(epoch)
        steps = int(windows.steps.sum())
        if steps and steps == ends[0].steps:
            yield epoch, int(windows.samples.sum()), steps * repeat.spec.samples_per_step


def _worst_epoch(repeat: FinishedRepeat) -> tuple[int, int, int, float] | None:
    wrong = [
        (epoch, counted, consumed, counted / consumed)
        for epoch, counted, consumed in counted_per_epoch(repeat)
        if abs(counted / consumed - 1) > RATIO_TOLERANCE
    ]
    return max(wrong, key=lambda found: abs(found[3] - 1), default=None)


def _is_world_size(factor: float, repeat: FinishedRepeat) -> bool:
    """Say whether a factor is a number of ranks, processes or devices of the run."""
    spec = repeat.spec
    return any(
        number > 1 and abs(factor / number - 1) <= RATIO_TOLERANCE
        for number in {spec.ranks, spec.processes, spec.devices, spec.ranks * spec.devices}
    )


def find_samples_not_conserved(repeat: FinishedRepeat) -> Observation | None:
    """Compare what the ranks counted in an epoch with what its steps consume."""
    worst = _worst_epoch(repeat)
    if worst is None or _is_world_size(worst[3], repeat):
        return None
    epoch, counted, consumed, factor = worst
    fit = fitting_ranks(factor)
    guess = f"; {fit[0]}/{fit[1]} fits {fit[0]} ranks counted and {fit[1]} training" if fit else ""
    return Observation(
        message=f"epoch {epoch} counted {counted:,} samples where its steps consume {consumed:,}: "
        f"{factor:.3g} times as many{guess}",
        figures={"epoch": epoch, "counted": counted, "consumed": consumed, "factor": factor},
    )


def world_size_inflated(repeat: FinishedRepeat) -> Observation | None:
    """Find samples that were multiplied by a number of ranks."""
    worst = _worst_epoch(repeat)
    if worst is None or not _is_world_size(worst[3], repeat):
        return None
    epoch, counted, consumed, factor = worst
    return Observation(
        message=f"epoch {epoch} counted {counted:,} samples where its steps consume {consumed:,}: "
        f"{round(factor)} times as many, which is the number of ranks or devices",
        figures={"epoch": epoch, "counted": counted, "consumed": consumed, "factor": factor},
    )


def _evaluated(repeat: FinishedRepeat) -> tuple[int, int, int] | None:
    """Return (epoch, samples judged, samples there are) of the evaluation that is furthest off."""
    there = repeat.history.started.evaluation_samples if repeat.history.started else None
    if not there:
        return None
    judged = [
        (epoch, sum(part.samples for part in parts), there)
        for epoch, parts in repeat.history.evaluations.items()
    ]
    return max(judged, key=lambda found: abs(found[1] - there), default=None)


def evaluation_incomplete(repeat: FinishedRepeat) -> Observation | None:
    """Find evaluations that leave samples out."""
    found = _evaluated(repeat)
    if found is None or found[1] >= found[2]:
        return None
    epoch, judged, there = found
    return Observation(
        message=f"the evaluation after epoch {epoch} saw {judged:,} of {there:,} samples",
        figures={"epoch": epoch, "evaluated": judged, "evaluation_samples": there},
    )


def evaluation_duplicated(repeat: FinishedRepeat) -> Observation | None:
    """Find evaluations that count samples more than once."""
    found = _evaluated(repeat)
    if found is None or found[1] <= found[2]:
        return None
    epoch, judged, there = found
    return Observation(
        message=f"the evaluation after epoch {epoch} counted {judged:,} samples, {judged / there:.3g} "
        f"times the {there:,} that there are",
        figures={"epoch": epoch, "evaluated": judged, "evaluation_samples": there},
    )


SAMPLE_RULES = (
    AuditRule(
        code="samples-not-conserved",
        severity=Severity.ERROR,
        scope=FindingScope.RUN,
        what="Throughput times time is not the number of samples that were processed.",
        when="Records: the samples that all ranks counted in a whole epoch differ by more than 1 % from "
        "steps x global batch. Tables: throughput x time differs by more than 1 % from the samples of an "
        "epoch (of all epochs: only if it is less, since a whole run also evaluates). Above 1 a table has "
        "two causes that it cannot tell apart, and the sentence names both.",
        advice="Count samples where they are consumed, summed over the ranks that train, and divide by "
        "the wall time of the same window.",
        source="docs/methodology.md, M1 and M2; study 1, whose parameter server counts 4 ranks and trains 3",
        of_repeat=find_samples_not_conserved,
        of_table=table_rules.table_samples_not_conserved,
    ),
    AuditRule(
        code="world-size-inflated",
        severity=Severity.ERROR,
        scope=FindingScope.RUN,
        what="Throughput was multiplied by the number of ranks.",
        when="The samples counted in a whole epoch are steps x global batch times the number of ranks, "
        "processes or devices of the run, within 1 %.",
        advice="Sum the samples of each rank's own batch; never multiply by the world size.",
        source="docs/methodology.md, M2 (DeepSpeed#171, tensorflow/benchmarks#84)",
        of_repeat=world_size_inflated,
    ),
    AuditRule(
        code="evaluation-incomplete",
        severity=Severity.ERROR,
        scope=FindingScope.RUN,
        what="The evaluation leaves out samples, so accuracies rest on different sets.",
        when="The samples judged by all ranks after an epoch are fewer than the validation set.",
        advice="Pad the last batch and mask the padding, instead of dropping what does not fill a batch.",
        source="docs/methodology.md, M13",
        of_repeat=evaluation_incomplete,
    ),
    AuditRule(
        code="evaluation-duplicated",
        severity=Severity.ERROR,
        scope=FindingScope.RUN,
        what="The evaluation counts samples more than once: padding, or every rank evaluates everything.",
        when="The samples judged by all ranks after an epoch are more than the validation set.",
        advice="Give each rank its shard of the validation set, mask what pads it, and sum over the ranks.",
        source="docs/methodology.md, M13; study 2, where every rank evaluated the whole test set",
        of_repeat=evaluation_duplicated,
    ),
)
