"""Rules about learning: finite losses, no stale or skipped updates, convergence inside the reference band."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from hpcbench.analysis.run_figures import FinishedRepeat, Observation
from hpcbench.analysis.statistical_tests import t_quantile
from hpcbench.audit.audit_findings import AuditRule, FindingScope, Severity
from hpcbench.audit.evidence import AuditedRow, RowComparison
from hpcbench.strategies.strategy_registry import find_strategy, is_baseline

SKIPPED_SHARE = 0.01
SKIPPED_AT_FIRST = 20  # while the scale of the loss is being found, from 2^16 downwards
TARGET_SHARE = 0.9  # of the reference's best accuracy
FEWEST_REFERENCES = 3  # repeats; fewer have no spread to speak of
FEWEST_EPOCHS = 1.0  # accuracies are known once an epoch: no band is narrower
RELATIVE_BAND = 0.1


def non_finite_loss(repeat: FinishedRepeat) -> Observation | None:
    """Find losses that are infinite or no number."""
    windows = repeat.history.windows
    counts = windows.numbers("non_finite").sum(axis=1)
    if not counts.any():
        return None
    place = np.flatnonzero(counts)[0]
    first = int(windows.first_step[place])
    losses = int(counts.sum())
    return Observation(
        message=f"{losses:,} losses are infinite or no number, the first between steps {first} "
        f"and {first + int(windows.steps[place]) - 1}",
        figures={"non_finite": losses, "first_step": first},
    )


def amp_steps_skipped(repeat: FinishedRepeat) -> Observation | None:
    """Find runs whose gradients were too often not finite, so that updates were left out."""
    windows = repeat.history.windows
    skipped = int(windows.numbers("skipped_updates").max(axis=1, initial=0).sum())
    steps = int(windows.steps.sum())
    if skipped <= SKIPPED_AT_FIRST or skipped <= SKIPPED_SHARE * steps:
        return None
    return Observation(
        message=f"{skipped:,} of {steps:,} updates were skipped ({skipped / steps:.1%})",
        figures={"skipped_updates": skipped, "steps": steps},
    )


def stale_updates(repeat: FinishedRepeat) -> Observation | None:
    """State how old the weights were that gradients were taken at."""
    ages = [age for updates in repeat.history.updates for age in updates.staleness]
    if ages and max(ages) > 0:
        mean = statistics.fmean(ages)
        return Observation(
            message=f"gradients were applied {mean:.3g} updates late on average, {max(ages)} at most",
            figures={"mean_staleness": mean, "largest_staleness": max(ages)},
        )
    spec = repeat.spec
    local = find_strategy(spec.strategy).steps_per_exchange(spec.strategy_options)
    if local > 1 and spec.ranks > 1:
        return Observation(
            message=f"the ranks trained alone for {local} steps at a time",
            figures={"local_steps": local},
        )
    return None


@dataclass(frozen=True)
class ConvergenceBand:
    """When a class reaches its target: epochs of the reference, mean and half the width of what is usual."""

    target_pct: float
    mean: float
    deviation: float
    n: int

    def half_width(self, repeats: int) -> float:
        """Return how far the mean of so many repeats may lie from the reference's (t interval)."""
        t = t_quantile(self.n - 1)
        spread = t * self.deviation * math.sqrt(1 / self.n + 1 / repeats)
        return max(FEWEST_EPOCHS, RELATIVE_BAND * self.mean, spread)


def reference_band(comparison: RowComparison) -> ConvergenceBand | None:
    """Return the band of a class, from its single-device run; None without three repeats of it."""
    for row in comparison.rows:
        if not is_baseline(row.spec.strategy):
            continue
        best = [max(found) for repeat in row.repeats if (found := list(repeat.accuracies().values()))]
        if len(best) < FEWEST_REFERENCES:
            continue
        target = TARGET_SHARE * statistics.fmean(best)
        epochs = [epoch for repeat in row.repeats if (epoch := _epochs_to(repeat, target)) is not None]
        if len(epochs) == len(best):
            return ConvergenceBand(target, statistics.fmean(epochs), statistics.stdev(epochs), len(epochs))
    return None


def _epochs_to(repeat: FinishedRepeat, target_pct: float) -> int | None:
    return next((epoch for epoch, acc in repeat.accuracies().items() if acc >= target_pct), None)


def converged_too_fast(comparison: RowComparison) -> Iterable[Observation]:
    """Find runs that reach the target before the band of their class."""
    band = reference_band(comparison)
    for row in comparison.rows if band else ():
        reached = _epochs_reached(row, band.target_pct) if band else None
        if band and reached and None not in reached:
            mean = statistics.fmean(epoch for epoch in reached if epoch is not None)
            if mean < band.mean - band.half_width(len(reached)):
                yield _outside_band(row, band, mean, len(reached))


def converged_too_slow(comparison: RowComparison) -> Iterable[Observation]:
    """Find runs that reach the target after the band of their class, or never."""
    band = reference_band(comparison)
    for row in comparison.rows if band else ():
        reached = _epochs_reached(row, band.target_pct) if band else None
        if not band or not reached:
            continue
        if None in reached:
            never = reached.count(None)
            yield Observation(
                row=row.experiment,
                message=f"{never} of {len(reached)} repeats never reach {band.target_pct:.3g} %, which "
                f"single_gpu reaches in {band.mean:.3g} epochs",
                figures={"target_acc_pct": band.target_pct, "reference_epochs": band.mean, "never": never},
            )
            continue
        mean = statistics.fmean(epoch for epoch in reached if epoch is not None)
        if mean > band.mean + band.half_width(len(reached)):
            yield _outside_band(row, band, mean, len(reached))


def _epochs_reached(row: AuditedRow, target_pct: float) -> list[int | None]:
    return [_epochs_to(repeat, target_pct) for repeat in row.repeats if repeat.accuracies()]


def _outside_band(row: AuditedRow, band: ConvergenceBand, mean: float, repeats: int) -> Observation:
    return Observation(
        row=row.experiment,
        message=f"it reaches {band.target_pct:.3g} % in {mean:.3g} epochs, and single_gpu in "
        f"{band.mean:.3g} ± {band.half_width(repeats):.2g}",
        figures={"target_acc_pct": band.target_pct, "epochs": mean, "reference_epochs": band.mean,
                 "band_epochs": band.half_width(repeats)},
    )  # fmt: skip


BAND_DEFINITION = (
    "The band is the class's own, as MLPerf's reference convergence points are: the epochs that "
    "single_gpu (three repeats or more) needs for 90 % of its best accuracy, mean -+ t(n-1) s sqrt(1/n + "
    "1/m) at 95 %, and never less than one epoch or 10 %."
)
BAND_SOURCE = "docs/methodology.md, M15; MLPerf training rules, section on reference convergence points (RCP)"
LEARNING_RULES = (
    AuditRule(
        code="non-finite-loss",
        severity=Severity.ERROR,
        scope=FindingScope.RUN,
        what="The loss was infinite or no number: nothing was learnt after that.",
        when="A rank counted a loss that is not finite in any window, warm-up included.",
        advice="Lower the learning rate or warm it up; with fp16 see that the loss is scaled.",
        source="docs/methodology.md, M15",
        of_repeat=non_finite_loss,
    ),
    AuditRule(
        code="amp-steps-skipped",
        severity=Severity.WARNING,
        scope=FindingScope.RUN,
        what="Mixed precision left out updates: fewer steps were learnt from than were timed.",
        when="More than 1 % of all updates, and more than the 20 that finding the scale may cost, were "
        "skipped.",
        advice="Use amp_bf16, or look for what overflows.",
        source="docs/methodology.md, M2; Micikevicius et al. 2018, section 3.2",
        of_repeat=amp_steps_skipped,
    ),
    AuditRule(
        code="stale-updates",
        severity=Severity.NOTE,
        scope=FindingScope.RUN,
        what="Gradients were taken at older weights than they changed, so an epoch does not teach the same.",
        when="A server applied a gradient after updates by others, or ranks did several steps between two "
        "averages.",
        advice="Compare time to accuracy, not throughput alone.",
        source="docs/methodology.md, M12; Ho et al. 2013",
        of_repeat=stale_updates,
    ),
    AuditRule(
        code="converged-too-fast",
        severity=Severity.WARNING,
        scope=FindingScope.RUN,
        what="It learns faster than one device can with the same recipe, which is as suspect as slower.",
        when=f"The mean number of epochs to the target lies below the band. {BAND_DEFINITION}",
        advice="Look for more updates than stated, another recipe, or validation samples in the training "
        "set.",
        source=BAND_SOURCE,
        of_class=converged_too_fast,
    ),
    AuditRule(
        code="converged-too-slow",
        severity=Severity.WARNING,
        scope=FindingScope.RUN,
        what="It learns more slowly than one device does with the same recipe.",
        when="The mean number of epochs to the target lies above the band, or a repeat never reaches it. "
        f"{BAND_DEFINITION}",
        advice="Look for stale or lost gradients, diverged replicas, skipped updates, or another recipe.",
        source=BAND_SOURCE,
        of_class=converged_too_slow,
    ),
)
