"""Measured against predicted step time: how far each run is from what its node can do, and which limit
binds.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpcbench.analysis.figure_registry import PHASES
from hpcbench.analysis.results_loading import LoadedResults, LoadedRun
from hpcbench.analysis.run_figures import RunFigures, exposed_exchange_s
from hpcbench.analysis.run_history import RecordedState, RunHistory
from hpcbench.ceilings.node_ceilings import Ceilings
from hpcbench.ceilings.step_prediction import (
    LimitingResource,
    MissingCeiling,
    ObservedCosts,
    ScaledPrediction,
    StepPrediction,
    predict_other_ranks,
    predict_step,
)
from hpcbench.sweep.run_spec import RunSpec, Sweep

ExchangeKey = tuple[object, ...]


@dataclass(frozen=True, kw_only=True)
class MeasuredVsPredicted:
    """Where a row of the ranking stands against its ceilings.

    `predicted` is Unknown where a ceiling is missing. `step_s` is the measured time of a step of all ranks,
    mean over repeats, and `phases_s` the part of each phase in it. `mfu_pct` is counted FLOP over what the
    device multiplies at most. `compute_samples_s` and `input_samples_s` are two ceilings on their own.
    """

    experiment: str
    spec: RunSpec
    predicted: StepPrediction | MissingCeiling
    step_s: float | None
    phases_s: Mapping[str, float]
    limit: LimitingResource | None
    projected: tuple[ScaledPrediction, ...] = ()
    mfu_pct: float | None = None
    compute_samples_s: float | None = None
    input_samples_s: float | None = None

    @property
    def samples_s(self) -> float | None:
        """The measured throughput."""
        return self.spec.samples_per_step / self.step_s if self.step_s else None

    @property
    def of_predicted(self) -> float | None:
        """Measured over predicted throughput; None where one of them is not known."""
        if self.step_s is None or isinstance(self.predicted, MissingCeiling):
            return None
        return self.predicted.step_s / self.step_s

    @property
    def error(self) -> float | None:
        """Predicted over measured step time, less 1."""
        return None if self.of_predicted is None else self.of_predicted - 1

    @property
    def excess(self) -> tuple[str, float] | None:
        """What takes longest beyond its prediction in a step: (data_wait, work or other, seconds)."""
        if isinstance(self.predicted, MissingCeiling) or not self.phases_s:
            return None
        p = self.predicted
        busy_s = p.busy_s
        work = ("forward_backward", "exchange", "update")
        beyond = {
            "data_wait": self.phases_s["data_wait"] - (p.step_s - busy_s),
            "work": math.fsum(self.phases_s[name] for name in work) - busy_s,
            "other": self.phases_s["other"],
        }  # fmt: skip
        most = max(beyond, key=lambda name: beyond[name])
        return (most, beyond[most]) if beyond[most] > 0 else None


def compare_with_predictions(loaded: LoadedResults) -> dict[str, MeasuredVsPredicted]:
    """Return the standing of each experiment with a finished repeat that trains; none without ceilings."""
    if not loaded.ceilings:
        return {}
    repeats: dict[str, list[LoadedRun]] = defaultdict(list)
    for name, run in loaded.keyed:
        if run.spec is not None and run.history.state is RecordedState.FINISHED:
            repeats[name].append(run)
    seen = observed_costs(loaded)
    return {name: _compare_row(name, runs, loaded.ceilings, seen) for name, runs in sorted(repeats.items())}


def ceilings_of_node(history: RunHistory, ceilings: Ceilings) -> Ceilings:
    """Return the ceilings of the node that a run was on, else of nodes with the same kind of device."""
    environment = history.started.environment if history.started else {}
    return ceilings.at(environment.get("hostname"), environment.get("device"))


def ceilings_of_own_node(history: RunHistory, ceilings: Ceilings) -> Ceilings:
    """Return the ceilings of the node that a run was on, and of no other."""
    environment = history.started.environment if history.started else {}
    return ceilings.own(environment.get("hostname"), environment.get("device"))


def observed_costs(loaded: LoadedResults) -> dict[ExchangeKey, ObservedCosts]:
    """Return what records show of each way of exchanging: overlaps, and how long servers need."""
    overlaps, served = _overlaps(loaded), _server_times(loaded)
    return {key: ObservedCosts(overlaps.get(key), served.get(key)) for key in overlaps.keys() | served.keys()}


def _server_times(loaded: LoadedResults) -> dict[ExchangeKey, float]:
    """Return how long a server needs for an update, mean over the runs in which it was told."""
    found: dict[ExchangeKey, list[float]] = defaultdict(list)
    for _, run in loaded.keyed:
        if run.spec is not None and run.figures is not None and run.figures.served_s is not None:
            found[exchange_key(run.spec)].append(run.figures.served_s)
    return {key: statistics.fmean(each) for key, each in found.items()}


def _overlaps(loaded: LoadedResults) -> dict[ExchangeKey, float]:
    """Return the hidden share of the exchange, for each way of exchanging of which it was measured.

    What leaving the exchange out saves was exposed. Less what is sent beside backward, which nothing hides,
    it is the part of what is sent during backward that was not hidden.
    """
    found: dict[ExchangeKey, list[float]] = defaultdict(list)
    for _, run in loaded.keyed:
        shown = exposed_exchange_s(run.history)
        if run.spec is None or shown is None:
            continue
        hidden = predict_step(
            run.spec, ceilings_of_node(run.history, loaded.ceilings), ObservedCosts(overlap=1.0)
        )
        if isinstance(hidden, StepPrediction) and hidden.exchange_s > hidden.exposed_s:
            share = (shown - hidden.exposed_s) / (hidden.exchange_s - hidden.exposed_s)
            found[exchange_key(run.spec)].append(min(max(1 - share, 0.0), 1.0))
    return {key: statistics.fmean(shares) for key, shares in found.items()}


def exchange_key(spec: RunSpec) -> ExchangeKey:
    """Return what is the same of runs that exchange alike; ranks and batch are left to the prediction."""
    options = tuple(sorted((name, repr(value)) for name, value in spec.strategy_options.items()))
    return spec.strategy, options, spec.backend, spec.device, spec.model, spec.precision


def _compare_row(
    name: str, runs: Sequence[LoadedRun], ceilings: Ceilings, seen: Mapping[ExchangeKey, ObservedCosts]
) -> MeasuredVsPredicted:
    spec, history = runs[0].spec, runs[0].history
    assert spec is not None
    here = ceilings_of_node(history, ceilings)
    told = [run.figures for run in runs if run.figures is not None]
    speeds = [each.throughput_samples_s for each in told if each.throughput_samples_s]
    predicted = predict_step(spec, here, seen.get(exchange_key(spec)))
    speed = statistics.fmean(speeds) if speeds else None
    compute, loader = here.compute(spec), here.input(spec)
    return MeasuredVsPredicted(
        experiment=name,
        spec=spec,
        predicted=predicted,
        step_s=spec.samples_per_step / speed if speed else None,
        phases_s=_phases_per_step(told),
        projected=predict_other_ranks(spec, here, seen.get(exchange_key(spec))),
        limit=_binding_limit(predicted, [run.history for run in runs]),
        mfu_pct=_mfu_pct(spec, here, speed),
        compute_samples_s=spec.samples_per_step / (compute.forward_backward_s + compute.update_s)
        if compute
        else None,
        input_samples_s=spec.samples_per_step / loader.seconds if loader else None,
    )


def _phases_per_step(told: Sequence[RunFigures]) -> dict[str, float]:
    steps = sum(each.counted_steps for each in told)
    if not steps:
        return {}
    return {name: math.fsum(each.phase_s[name] for each in told) / steps for name in PHASES}


def _binding_limit(
    predicted: StepPrediction | MissingCeiling, histories: Iterable[RunHistory]
) -> LimitingResource | None:
    """Return what binds: evaluation where it takes longer than training, else the largest predicted part."""
    ends = [epoch for history in histories for epochs in history.epochs.values() for epoch in epochs]
    if math.fsum(epoch.evaluation_s for epoch in ends) > math.fsum(epoch.train_s for epoch in ends):
        return LimitingResource.EVALUATION
    return None if isinstance(predicted, MissingCeiling) else predicted.limit


def _mfu_pct(spec: RunSpec, ceilings: Ceilings, samples_s: float | None) -> float | None:
    """Return model FLOP utilisation: counted FLOP of a device over its measured matrix rate (rule 9)."""
    compute, rate = ceilings.compute(spec), ceilings.matrix_flop_per_s(spec)
    if compute is None or rate is None or samples_s is None:
        return None
    devices = spec.ranks * spec.devices if spec.device != "cpu" else spec.ranks
    return 100 * samples_s * compute.flop / spec.batch_size / devices / rate


@dataclass(frozen=True)
class SweepRunPrediction:
    """A run of a sweep with its prediction, its measured step if any, and other numbers of ranks."""

    spec: RunSpec
    prediction: StepPrediction | MissingCeiling
    measured_step_s: float | None
    projected: tuple[ScaledPrediction, ...]

    @property
    def error_pct(self) -> float | None:
        """Predicted over measured step time, less 1, in per cent."""
        if self.measured_step_s is None or isinstance(self.prediction, MissingCeiling):
            return None
        return 100 * (self.prediction.step_s / self.measured_step_s - 1)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        told: dict[str, Any] = {
            "name": self.spec.name, "strategy": self.spec.strategy, "ranks": self.spec.ranks,
            "measured_step_s": self.measured_step_s, "error_pct": self.error_pct,
        }  # fmt: skip
        if isinstance(self.prediction, MissingCeiling):
            return told | {"predicted": None, "missing": self.prediction.missing, "projected": []}
        return told | {
            "predicted": _prediction_json(self.prediction),
            "missing": None,
            "projected": [
                {"ranks": each.ranks, **_prediction_json(each.prediction)} for each in self.projected
            ],
        }


def predict_runs(sweep: Sweep, ceilings: Ceilings, loaded: LoadedResults | None) -> list[SweepRunPrediction]:
    """Return a prediction for the first repeat of each run of a sweep, beside what was measured of it."""
    known = dataclasses.replace(loaded, ceilings=ceilings) if loaded else None
    seen: Mapping[ExchangeKey, ObservedCosts] = observed_costs(known) if known else {}
    measured = _measured_by_configuration(known) if known else {}
    found = []
    for spec in (run for run in sweep.runs if run.repeat == 0):
        here = ceilings.for_device(spec)
        standing = measured.get(_configuration_id(spec))
        found.append(
            SweepRunPrediction(
                spec,
                standing.predicted if standing else predict_step(spec, here, seen.get(exchange_key(spec))),
                standing.step_s if standing else None,
                predict_other_ranks(spec, here, seen.get(exchange_key(spec))),
            )
        )
    return found


def _measured_by_configuration(loaded: LoadedResults) -> dict[str, MeasuredVsPredicted]:
    return {_configuration_id(each.spec): each for each in compare_with_predictions(loaded).values()}


def _configuration_id(spec: RunSpec) -> str:
    return dataclasses.replace(spec, seed=0).run_id


def _prediction_json(prediction: StepPrediction) -> dict[str, Any]:
    told = dataclasses.asdict(prediction)
    return told | {"exposed_s": prediction.exposed_s, "extrapolated": prediction.extrapolated}


def prediction_error_lines(found: Sequence[SweepRunPrediction]) -> list[str]:
    """Say for each strategy how far its predictions are off, where it was measured."""
    errors: dict[str, list[float]] = {}
    for each in found:
        if each.error_pct is not None:
            errors.setdefault(each.spec.strategy, []).append(each.error_pct)
    if not errors:
        return ["Nothing of this sweep was measured yet: how far these predictions are off is not known."]
    return [
        f"{strategy}: step time off by {statistics.median(map(abs, values)):.0f} % "
        f"(median of {len(values)}), {max(values, key=abs):+.0f} % at most"
        for strategy, values in sorted(errors.items())
    ]
