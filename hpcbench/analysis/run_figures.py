"""The figures of one run, derived from its history (formulas: docs/report.md), and the repeat and
observation types that audit rules work on.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hpcbench.analysis.figure_registry import PHASES
from hpcbench.analysis.run_history import RunHistory
from hpcbench.analysis.step_windows import RunWindows
from hpcbench.runs.events import Epoch, Evaluation
from hpcbench.strategies.data_parallel_entries import CollectiveOptions
from hpcbench.sweep.run_spec import RunSpec

MEGABYTE_BYTES = 1e6  # bytes
PERCENTILES = (50, 90, 99)
BUSY_PERCENT = 10.0  # per cent of utilisation: below it a device starts, evaluates nothing, or waits to end


@dataclass(frozen=True, kw_only=True)
class RunFigures:
    """What is known of one repeat; None where nothing was measured. Phases are means over training ranks."""

    throughput_samples_s: float | None
    throughput_per_device: float | None
    best_acc_pct: float | None
    final_acc_pct: float | None
    epoch_time_s: float | None
    total_time_s: float | None
    peak_mem_mb: float | None
    data_wait_pct: float | None
    exposed_comm_pct: float | None
    steps_per_epoch: int | None
    warmup_steps: int  # that do not count, declared or found
    counted_samples: int
    counted_steps: int
    counted_wall_s: float
    push_s: float | None  # parameter server: inside the exchange
    pull_s: float | None
    step_p50_s: float | None  # of the steps of all training ranks together
    step_p90_s: float | None
    step_p99_s: float | None
    slowest_rank_ratio: (
        float | None
    )  # slowest over median rank, of what a rank does before it waits for others
    joules_per_sample: float | None  # of all devices
    served_s: float | None  # what a server needs to add up the gradients of an update, and to update
    staleness: dict[int, int] | None  # updates by others since the pull -> how many gradients were so old
    phase_s: dict[str, float]


def derive_figures(history: RunHistory, spec: RunSpec) -> RunFigures:
    """Derive a run's figures from its history."""
    counted = history.windows.counted
    phase_s = _phases(counted)
    throughput = applied_samples_s(history) if is_asynchronous_run(spec) else throughput_samples_s(counted)
    accuracies = [a for a in map(accuracy_pct, history.evaluations.values()) if a is not None]
    ends = [finished.wall_s for finished in history.finished]
    return RunFigures(
        throughput_samples_s=throughput,
        throughput_per_device=None if throughput is None else throughput / occupied_devices(spec),
        best_acc_pct=max(accuracies, default=None),
        final_acc_pct=accuracies[-1] if accuracies else None,
        epoch_time_s=_mean_or_none(epoch_time_s(events) for events in history.epochs.values()),
        total_time_s=max(ends) + history.earlier_s if ends else None,
        peak_mem_mb=_peak_mem_mb(history),
        data_wait_pct=_share_pct(phase_s, "data_wait"),
        exposed_comm_pct=_exposed_pct(history, spec, phase_s),
        steps_per_epoch=history.started.steps_per_epoch if history.started else None,
        warmup_steps=int(history.windows.steps.sum() - counted.steps.sum()),
        counted_samples=int(counted.samples.sum()),
        counted_steps=int(counted.steps.sum()),
        counted_wall_s=float(counted.wall_s.sum()),
        push_s=_exchange_part_s(counted, "push_s"),
        pull_s=_exchange_part_s(counted, "pull_s"),
        **dict(zip(("step_p50_s", "step_p90_s", "step_p99_s"), step_percentiles_s(counted), strict=True)),
        slowest_rank_ratio=slowest_rank_ratio(counted),
        joules_per_sample=_joules_per_sample(history, throughput),
        served_s=_update_time_s(history),
        staleness=_staleness(history),
        phase_s=phase_s,
    )


def occupied_devices(spec: RunSpec) -> int:
    """Return the devices that a run occupies: those of its training ranks, and of servers on a GPU."""
    servers = spec.servers if spec.strategy_options.get("server") == "gpu" else 0
    return spec.ranks * spec.devices + servers


def throughput_samples_s(windows: RunWindows) -> float | None:
    """Return samples of all ranks over the time of the slowest (MEASURING rules 1 and 2); None if empty."""
    wall_s = float(windows.wall_s.sum())
    return float(windows.samples.sum()) / wall_s if wall_s > 0 else None


def is_asynchronous_run(spec: RunSpec) -> bool:
    """Say whether a server applies gradients as they come: then its clock is the clock (MEASURING rule 3)."""
    return spec.strategy == "ps" and spec.strategy_options.get("mode", "sync") != "sync"


def applied_samples_s(history: RunHistory, epoch: int | None = None) -> float | None:
    """Return samples behind the applied updates over the server's wall time, without dropped ones."""
    told = [each for each in history.updates if each.counted and epoch in (None, each.epoch)]
    wall_s = math.fsum(each.wall_s for each in told)
    return sum(each.samples for each in told) / wall_s if wall_s > 0 else None


def accuracy_pct(evaluations: Sequence[Evaluation]) -> float | None:
    """Return the share of the evaluation samples that were right, over the ranks that judged any."""
    judged = [(e.correct, e.samples) for e in evaluations if e.correct is not None]
    samples = sum(n for _, n in judged)
    return 100 * sum(correct for correct, _ in judged) / samples if samples else None


def evaluation_loss(evaluations: Sequence[Evaluation]) -> float | None:
    """Return the mean loss over the evaluation samples, None where a rank that judged has a broken one."""
    judged = [e for e in evaluations if e.correct is not None]
    samples = sum(e.samples for e in judged)
    sums = [e.loss_sum for e in judged if e.loss_sum is not None]
    return math.fsum(sums) / samples if samples and len(sums) == len(judged) else None


def epoch_time_s(epochs: Sequence[Epoch]) -> float:
    """Return training and evaluation of an epoch on the slowest rank; checks and checkpoints stay out."""
    return max(epoch.train_s + epoch.evaluation_s for epoch in epochs)


def peak_mb(windows: RunWindows, others: Iterable[int | None]) -> float | None:
    """Return the largest peak of windows and of other events, in units of 10^6 bytes."""
    seen = windows.numbers("peak_memory_bytes")
    known = [peak for peak in others if peak is not None] + seen[~np.isnan(seen)].tolist()
    return max(known) / MEGABYTE_BYTES if known else None


def _peak_mem_mb(history: RunHistory) -> float | None:
    peaks = [epoch.peak_memory_bytes for epochs in history.epochs.values() for epoch in epochs]
    return peak_mb(history.windows, [*peaks, *(each.peak_memory_bytes for each in history.finished)])


def exchange_follows_backward(spec: RunSpec) -> bool:
    """Say whether all communication of a run stands in its exchange phase, none hidden in the backward pass.

    Only then is the phase what MEASURING rule 7 calls exposed; elsewhere it takes an ablation to know.
    """
    if spec.strategy != "collective":
        return False
    exchange = spec.strategy_options.get("exchange", CollectiveOptions().exchange)
    return exchange in ("per_parameter", "bucketed")


def step_percentiles_s(windows: RunWindows) -> tuple[float | None, float | None, float | None]:
    """Return p50, p90 and p99 of the step times of all ranks together (MEASURING rule 10); None if empty."""
    pooled = windows.pooled("step_s")
    if not len(pooled):
        return None, None, None
    p50, p90, p99 = (float(value) for value in np.percentile(pooled, PERCENTILES))
    return p50, p90, p99


def slowest_rank_ratio(windows: RunWindows) -> float | None:
    """Return how much longer the slowest rank works than the median rank; None for one rank alone.

    Work is data wait and forward+backward: in the phases after them ranks wait for each other.
    """
    busy_s = busy_s_by_rank(windows)
    if len(busy_s) < 2:
        return None
    middle = statistics.median(busy_s)
    return max(busy_s) / middle if middle > 0 else None


def busy_s_by_rank(windows: RunWindows) -> list[float]:
    """Return what each rank spends before it can wait for others; waiting hides in the other phases."""
    busy_s = windows.numbers("data_wait_s") + windows.numbers("forward_backward_s")
    return [float(each) for each in busy_s.sum(axis=0)]


def _update_time_s(history: RunHistory) -> float | None:
    told = [each for each in history.updates if each.counted]
    updates = sum(each.updates for each in told)
    return math.fsum(each.update_s for each in told) / updates if updates else None


def _joules_per_sample(history: RunHistory, samples_s: float | None) -> float | None:
    """Return the power of all devices, mean over readings in which they worked, over the throughput."""
    hosts: dict[str, list[float]] = {}
    for line in history.telemetry:
        readings = zip(line.device_watts or (), line.device_percent or (), strict=False)
        working = [
            math.fsum(watts) for watts, percent in readings if max(percent, default=0.0) >= BUSY_PERCENT
        ]
        hosts.setdefault(line.host, []).extend(working)
    if not samples_s or not any(hosts.values()):
        return None
    return math.fsum(statistics.fmean(each) for each in hosts.values() if each) / samples_s


def exposed_exchange_s(history: RunHistory) -> float | None:
    """Return what a step takes longer with the exchange than without it, where that was tried (rule 7).

    Medians over the steps of each rank, mean over ranks: a step that was disturbed counts for one.
    """
    told = [each for each in history.ablations if each.with_exchange_s and each.without_exchange_s]
    return _mean_or_none(
        statistics.median(each.with_exchange_s) - statistics.median(each.without_exchange_s) for each in told
    )


def _exposed_pct(history: RunHistory, spec: RunSpec, phase_s: dict[str, float]) -> float | None:
    """Return the share of a step that is exposed exchange: by ablation, else by the phase that holds it."""
    ablated = exposed_exchange_s(history)
    if ablated is not None:
        whole = _mean_or_none(statistics.median(each.with_exchange_s) for each in history.ablations)
        return 100 * max(0.0, ablated) / whole if whole else None
    return _share_pct(phase_s, "exchange") if exchange_follows_backward(spec) else None


def _phases(windows: RunWindows) -> dict[str, float]:
    return {name: _mean_over_ranks(windows, f"{name}_s") for name in PHASES}


def _mean_over_ranks(windows: RunWindows, name: str) -> float:
    return float(windows.numbers(name).sum()) / max(1, len(windows.ranks))


def _exchange_part_s(windows: RunWindows, name: str) -> float | None:
    """Return the seconds of a part of the exchange, mean over ranks; None where nobody measured it."""
    known = windows.numbers(name)
    return float(np.nansum(known)) / len(windows.ranks) if (~np.isnan(known)).any() else None


def _staleness(history: RunHistory) -> dict[int, int] | None:
    counts = Counter(value for each in history.updates for value in each.staleness)
    return dict(sorted(counts.items())) or None


def _share_pct(phase_s: dict[str, float], phase: str) -> float | None:
    """Return a phase's share of all phases, which partition the windows' time (MEASURING rule 4)."""
    whole = math.fsum(phase_s.values())
    return 100 * phase_s[phase] / whole if whole > 0 else None


def _mean_or_none(values: Iterable[float]) -> float | None:
    known = list(values)
    return statistics.fmean(known) if known else None


FindingValues = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What a rule saw: the sentence, and the figures it rests on. `row` is set where a rule saw several."""

    message: str
    row: str | None = None
    figures: FindingValues = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FinishedRepeat:
    """One finished repeat of a row.

    Rules about repeats see all of its history while its records are read. What they saw, `observed` by their
    codes, is kept with the figures and the first losses; rules about rows and comparisons see these, and no
    windows any more.
    """

    experiment: str
    spec: RunSpec
    history: RunHistory
    figures: RunFigures | None = None
    first_losses: tuple[float, ...] = ()
    observed: Mapping[str, Observation] = field(default_factory=dict)

    @property
    def counted(self) -> RunWindows:
        """The windows that count for speed."""
        return self.history.windows.counted

    def accuracies(self) -> dict[int, float]:
        """Return the validation accuracy after each epoch, in per cent."""
        known = ((epoch, accuracy_pct(parts)) for epoch, parts in self.history.evaluations.items())
        return {epoch: accuracy for epoch, accuracy in known if accuracy is not None}


PARITY_STEPS = 5  # longer fp32 runs drift apart by summation order alone (DESIGN section 5)
