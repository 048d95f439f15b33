"""Rules about time: all of it is accounted for and went into training."""

from __future__ import annotations

import math
import statistics

import numpy as np

from hpcbench.analysis.figure_registry import PHASES
from hpcbench.analysis.run_figures import FinishedRepeat, Observation, busy_s_by_rank
from hpcbench.audit.audit_findings import AuditRule, FindingScope, Severity
from hpcbench.audit.tables import table_checks

PARTITION_TOLERANCE = 0.02  # MEASURING rule 4
MAX_UNNAMED_SHARE = 0.10
MIN_UNNAMED_S = 1.0  # below that, it is start and end of what was named
MAX_UNSEEN_SHARE = 0.5
INPUT_SHARE = 0.20
EVALUATION_SHARE = 0.30
UNSTABLE_RATIO = 1.5
FEWEST_STEPS = 20  # for percentiles
STRAGGLER_RATIO = 1.25


def find_time_unaccounted(repeat: FinishedRepeat) -> Observation | None:
    """Find time that no phase and no part of the run has a name for."""
    windows = repeat.counted
    wall = windows.numbers("wall_s")
    phases = sum((windows.numbers(f"{phase}_s") for phase in PHASES), np.zeros(wall.shape))
    wrong = np.argwhere(np.abs(phases - wall) > PARTITION_TOLERANCE * wall)
    if len(wrong):
        place = tuple(wrong[0])
        phases_s, wall_s = float(phases[place]), float(wall[place])
        return Observation(
            message=f"the phases of the window at step {windows.first_step[place[0]]} add up to "
            f"{phases_s:.3g} s of {wall_s:.3g} s",
            figures={"phases_s": phases_s, "wall_s": wall_s},
        )
    ends = repeat.history.finished
    if not ends:
        return None
    end = max(ends, key=lambda finished: finished.wall_s)
    running_s = end.wall_s - end.startup_s
    if end.other_s <= MIN_UNNAMED_S or end.other_s <= MAX_UNNAMED_SHARE * running_s:
        return None
    return Observation(
        message=f"{end.other_s:.3g} s of the {running_s:.3g} s after start-up "
        f"({end.other_s / running_s:.0%}) are neither training nor evaluation, check or checkpoint",
        figures={"other_s": end.other_s, "running_s": running_s},
    )


def timer_not_synchronised(repeat: FinishedRepeat) -> Observation | None:
    """Find clocks that stop before the work is done, so that most of the time lies outside of them."""
    wall = repeat.counted.numbers("wall_s")
    seen = wall > 0
    if seen.any():
        # Ranks wait for the slowest in `other`: the smallest share is of the one that never waits.
        shares = np.divide(
            repeat.counted.numbers("other_s"), wall, out=np.full(wall.shape, np.inf), where=seen
        )
        share = float(np.median(shares.min(axis=1)[seen.any(axis=1)]))
        if share > MAX_UNSEEN_SHARE:
            return Observation(
                message=f"{share:.0%} of a window's time lies outside the phases of its steps",
                figures={"outside_share": share},
            )
    epochs = [max(ends, key=lambda epoch: epoch.wall_s) for ends in repeat.history.epochs.values()]
    whole_s = math.fsum(epoch.wall_s for epoch in epochs)
    outside_s = math.fsum(epoch.other_s for epoch in epochs)
    if not whole_s or outside_s <= MAX_UNSEEN_SHARE * whole_s or outside_s <= MIN_UNNAMED_S:
        return None
    return Observation(
        message=f"the clocks saw {whole_s - outside_s:.3g} s of {whole_s:.3g} s: {outside_s / whole_s:.0%} "
        "of the epochs' time passed after they had stopped",
        figures={"outside_s": outside_s, "epochs_s": whole_s, "outside_share": outside_s / whole_s},
    )


def input_bound(repeat: FinishedRepeat) -> Observation | None:
    """Find runs that wait for data."""
    windows = repeat.counted
    wall_s = float(windows.numbers("wall_s").sum())
    if not wall_s:
        return None
    share = float(windows.numbers("data_wait_s").sum()) / wall_s
    if share <= INPUT_SHARE:
        return None
    samples_s = float(windows.samples.sum() / windows.wall_s.sum())
    return Observation(
        message=f"{share:.0%} of the time of a step is waiting for data: {samples_s:,.0f} "
        f"samples/s, and about {samples_s / (1 - share):,.0f} without waiting",
        figures={"data_wait_share": share, "throughput_samples_s": samples_s},
    )


def evaluation_dominates(repeat: FinishedRepeat) -> Observation | None:
    """Find runs that spend their time on evaluation."""
    ends = [epoch for epochs in repeat.history.epochs.values() for epoch in epochs]
    train_s = math.fsum(epoch.train_s for epoch in ends)
    evaluation_s = math.fsum(epoch.evaluation_s for epoch in ends)
    whole_s = train_s + evaluation_s
    if not whole_s or evaluation_s <= EVALUATION_SHARE * whole_s:
        return None
    return Observation(
        message=f"evaluation takes {evaluation_s / whole_s:.0%} of the time of an epoch",
        figures={"evaluation_share": evaluation_s / whole_s},
    )


def unstable_steps(repeat: FinishedRepeat) -> Observation | None:
    """Find steps of very different length."""
    steps_s = np.sort(repeat.counted.pooled("step_s"))
    if len(steps_s) < FEWEST_STEPS:
        return None
    p50, p90 = float(np.median(steps_s)), float(steps_s[math.ceil(0.9 * len(steps_s)) - 1])
    if p50 <= 0 or p90 <= UNSTABLE_RATIO * p50:
        return None
    return Observation(
        message=f"one step in ten takes longer than {p90 * 1e3:.3g} ms, {p90 / p50:.2g} times the median "
        f"of {p50 * 1e3:.3g} ms",
        figures={"p50_s": p50, "p90_s": p90},
    )


def straggler_rank(repeat: FinishedRepeat) -> Observation | None:
    """Find a rank that computes longer than the others, which have to wait for it."""
    windows = repeat.counted
    if repeat.spec.ranks < 2 or not windows:
        return None
    busy_s = busy_s_by_rank(windows)
    ranks = len(busy_s)
    slowest = max(range(ranks), key=busy_s.__getitem__)
    others_s = statistics.median(busy_s[:slowest] + busy_s[slowest + 1 :])
    if others_s <= 0 or busy_s[slowest] <= STRAGGLER_RATIO * others_s:
        return None
    return Observation(
        message=f"rank {slowest} computes {busy_s[slowest] / others_s:.3g} times as long as the median of "
        "the others",
        figures={"rank": slowest, "ratio": busy_s[slowest] / others_s, "busy_s": busy_s},
    )


TIMING_RULES = (
    AuditRule(
        code="time-unaccounted",
        severity=Severity.WARNING,
        scope=FindingScope.RUN,
        what="A part of the time is neither training nor anything else that has a name.",
        when="Records: the phases of a window miss its wall time by more than 2 %, or more than 10 % (and "
        "1 s) of the run after start-up has no name. Tables: the total time is longer than training at "
        "the stated throughput and evaluating after each epoch together, where an evaluated sample is "
        "granted as much time as a trained one (it needs a third). Without --eval-samples the validation "
        "set is taken for a fifth of the training set, the largest share of the usual data sets (CIFAR).",
        advice="Time evaluation, checkpoints and start-up apart; shard the evaluation over the ranks.",
        source="MEASURING rule 4; study 2, where every rank evaluated the whole test set",
        of_repeat=find_time_unaccounted,
        of_table=table_checks.table_time_unaccounted,
    ),
    AuditRule(
        code="timer-not-synchronised",
        severity=Severity.ERROR,
        scope=FindingScope.RUN,
        what="The clock was read before the device had finished: most of the work lies outside of it.",
        when="More than half of the windows' time lies outside the phases of the steps, on every rank; or "
        "more than half of the epochs' time (and 1 s) passed after the clocks had stopped.",
        advice="Wait for the device once at the end of a window, before the clock is read.",
        source="MEASURING rules 1 and 6; study 1, whose timers saw 27 ms of a step of 1.7 s",
        of_repeat=timer_not_synchronised,
    ),
    AuditRule(
        code="input-bound",
        severity=Severity.WARNING,
        scope=FindingScope.RUN,
        what="The input pipeline is measured, not the strategy.",
        when="Waiting for data takes more than 20 % of the counted windows.",
        advice="Give the loader more workers, cache the data set, or compare strategies on synthetic data.",
        source="MEASURING rule 5 (Mohan et al., DS-Analyzer, PVLDB 14(5)); both studies",
        of_repeat=input_bound,
    ),
    AuditRule(
        code="evaluation-dominates",
        severity=Severity.WARNING,
        scope=FindingScope.RUN,
        what="Evaluation takes so long that epoch times say little about training.",
        when="Evaluation takes more than 30 % of training and evaluation.",
        advice="Shard the evaluation, use larger batches for it, or evaluate less often.",
        source="MEASURING rules 4 and 13",
        of_repeat=evaluation_dominates,
    ),
    AuditRule(
        code="unstable-steps",
        severity=Severity.WARNING,
        scope=FindingScope.RUN,
        what="Steps take very different times, so a mean says little.",
        when="The 90th percentile of step times, over pooled ranks and counted windows (20 steps or "
        "more), is more than 1.5 times the median.",
        advice="Look for other processes, throttling, the loader, or garbage collection; measure longer "
        "windows.",
        source="MEASURING rule 10",
        of_repeat=unstable_steps,
    ),
    AuditRule(
        code="straggler-rank",
        severity=Severity.WARNING,
        scope=FindingScope.RUN,
        what="One rank is slower than the others, which wait for it.",
        when="Data wait and forward+backward of the slowest rank take more than 1.25 times the median of "
        "the others. A strategy that waits inside the backward pass hides its stragglers from this rule.",
        advice="Compare the devices' clocks, cores and data shards of that rank with the others'.",
        source="MEASURING rule 10",
        of_repeat=straggler_rank,
    ),
)
