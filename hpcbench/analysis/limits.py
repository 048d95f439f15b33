"""How far each run is from what its node can do, and which limit binds (MEASURING rule 8)."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hpcbench.analysis.ceilings import Ceilings
from hpcbench.analysis.figures import PHASES, Figures, exposed_s
from hpcbench.analysis.history import History, State
from hpcbench.analysis.load import Loaded, Run
from hpcbench.analysis.predict import Limit, Prediction, Seen, Unknown, predict
from hpcbench.analysis.project import Projected, project
from hpcbench.config.spec import RunSpec

LikeRuns = tuple[object, ...]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a row of the ranking stands against its ceilings.

    `predicted` is Unknown where a ceiling is missing. `step_s` is the measured time of a step of all ranks,
    mean over repeats, and `phases_s` the part of each phase in it. `mfu_pct` is counted FLOP over what the
    device multiplies at most. `compute_samples_s` and `input_samples_s` are two ceilings on their own.
    """

    experiment: str
    spec: RunSpec
    predicted: Prediction | Unknown
    step_s: float | None
    phases_s: Mapping[str, float]
    limit: Limit | None
    projected: tuple[Projected, ...] = ()
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
        if self.step_s is None or isinstance(self.predicted, Unknown):
            return None
        return self.predicted.step_s / self.step_s

    @property
    def error(self) -> float | None:
        """Predicted over measured step time, less 1."""
        return None if self.of_predicted is None else self.of_predicted - 1

    @property
    def excess(self) -> tuple[str, float] | None:
        """What takes longest beyond its prediction in a step: (data_wait, work or other, seconds)."""
        if isinstance(self.predicted, Unknown) or not self.phases_s:
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


def standings(loaded: Loaded) -> dict[str, Standing]:
    """Return the standing of each experiment with a finished repeat that trains; none without ceilings."""
    if not loaded.ceilings:
        return {}
    repeats: dict[str, list[Run]] = defaultdict(list)
    for name, run in loaded.keyed:
        if run.spec is not None and run.history.state is State.FINISHED:
            repeats[name].append(run)
    seen = seen_in(loaded)
    return {name: _standing(name, runs, loaded.ceilings, seen) for name, runs in sorted(repeats.items())}


def of_node(history: History, ceilings: Ceilings) -> Ceilings:
    """Return the ceilings of the node that a run was on, else of nodes with the same kind of device."""
    environment = history.started.environment if history.started else {}
    return ceilings.at(environment.get("hostname"), environment.get("device"))


def of_own_node(history: History, ceilings: Ceilings) -> Ceilings:
    """Return the ceilings of the node that a run was on, and of no other."""
    environment = history.started.environment if history.started else {}
    return ceilings.own(environment.get("hostname"), environment.get("device"))


def seen_in(loaded: Loaded) -> dict[LikeRuns, Seen]:
    """Return what records show of each way of exchanging: overlaps, and how long servers need."""
    overlaps, served = _overlaps(loaded), _served(loaded)
    return {key: Seen(overlaps.get(key), served.get(key)) for key in overlaps.keys() | served.keys()}


def _served(loaded: Loaded) -> dict[LikeRuns, float]:
    """Return how long a server needs for an update, mean over the runs in which it was told."""
    found: dict[LikeRuns, list[float]] = defaultdict(list)
    for _, run in loaded.keyed:
        if run.spec is not None and run.figures is not None and run.figures.served_s is not None:
            found[like(run.spec)].append(run.figures.served_s)
    return {key: statistics.fmean(each) for key, each in found.items()}


def _overlaps(loaded: Loaded) -> dict[LikeRuns, float]:
    """Return the hidden share of the exchange, for each way of exchanging of which it was measured.

    What leaving the exchange out saves was exposed. Less what is sent beside backward, which nothing hides,
    it is the part of what is sent during backward that was not hidden.
    """
    found: dict[LikeRuns, list[float]] = defaultdict(list)
    for _, run in loaded.keyed:
        shown = exposed_s(run.history)
        if run.spec is None or shown is None:
            continue
        hidden = predict(run.spec, of_node(run.history, loaded.ceilings), Seen(overlap=1.0))
        if isinstance(hidden, Prediction) and hidden.exchange_s > hidden.exposed_s:
            share = (shown - hidden.exposed_s) / (hidden.exchange_s - hidden.exposed_s)
            found[like(run.spec)].append(min(max(1 - share, 0.0), 1.0))
    return {key: statistics.fmean(shares) for key, shares in found.items()}


def like(spec: RunSpec) -> LikeRuns:
    """Return what is the same of runs that exchange alike; ranks and batch are left to the prediction."""
    options = tuple(sorted((name, repr(value)) for name, value in spec.strategy_options.items()))
    return spec.strategy, options, spec.backend, spec.device, spec.model, spec.precision


def _standing(name: str, runs: Sequence[Run], ceilings: Ceilings, seen: Mapping[LikeRuns, Seen]) -> Standing:
    spec, history = runs[0].spec, runs[0].history
    assert spec is not None
    here = of_node(history, ceilings)
    told = [run.figures for run in runs if run.figures is not None]
    speeds = [each.throughput_samples_s for each in told if each.throughput_samples_s]
    predicted = predict(spec, here, seen.get(like(spec)))
    speed = statistics.fmean(speeds) if speeds else None
    compute, loader = here.compute(spec), here.input(spec)
    return Standing(
        experiment=name,
        spec=spec,
        predicted=predicted,
        step_s=spec.samples_per_step / speed if speed else None,
        phases_s=_phases(told),
        projected=project(spec, here, seen.get(like(spec))),
        limit=_limit(predicted, [run.history for run in runs]),
        mfu_pct=_mfu_pct(spec, here, speed),
        compute_samples_s=spec.samples_per_step / (compute.forward_backward_s + compute.update_s)
        if compute
        else None,
        input_samples_s=spec.samples_per_step / loader.seconds if loader else None,
    )


def _phases(told: Sequence[Figures]) -> dict[str, float]:
    steps = sum(each.counted_steps for each in told)
    if not steps:
        return {}
    return {name: math.fsum(each.phase_s[name] for each in told) / steps for name in PHASES}


def _limit(predicted: Prediction | Unknown, histories: Iterable[History]) -> Limit | None:
    """Return what binds: evaluation where it takes longer than training, else the largest predicted part."""
    ends = [epoch for history in histories for epochs in history.epochs.values() for epoch in epochs]
    if math.fsum(epoch.evaluation_s for epoch in ends) > math.fsum(epoch.train_s for epoch in ends):
        return Limit.EVALUATION
    return None if isinstance(predicted, Unknown) else predicted.limit


def _mfu_pct(spec: RunSpec, ceilings: Ceilings, samples_s: float | None) -> float | None:
    """Return model FLOP utilisation: counted FLOP of a device over its measured matrix rate (rule 9)."""
    compute, rate = ceilings.compute(spec), ceilings.matrix_flop_per_s(spec)
    if compute is None or rate is None or samples_s is None:
        return None
    devices = spec.ranks * spec.devices if spec.device != "cpu" else spec.ranks
    return 100 * samples_s * compute.flop / spec.batch_size / devices / rate
