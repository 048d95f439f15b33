"""What is kept of a run: everything that tables, audit and page need, without what grows with every step.

A digest is made in whatever process reads the records, travels to the one that writes the report, and stands
in its cache (`cache.py`), so that a second report reads only the runs that have changed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from hpcbench.analysis import rows
from hpcbench.analysis.audit.evidence import Repeat
from hpcbench.analysis.audit.findings import Observation
from hpcbench.analysis.audit.replicas import PARITY_STEPS
from hpcbench.analysis.audit.rules import RULES
from hpcbench.analysis.figures import Figures, figures
from hpcbench.analysis.history import LARGE, History, State, read_history
from hpcbench.analysis.step_table import StepTable, step_table
from hpcbench.config.spec import RunSpec
from hpcbench.errors import RecordError
from hpcbench.runs.events import Check, Epoch, Evaluation, Event, ExchangeAblation, RunFinished, RunStarted
from hpcbench.runs.results_folder import RunFolder

MOST_POINTS = 120  # of a curve over steps: a line of more is noise to the eye
DIGITS = 7  # of a point: more are not seen, and thousands of curves are cached

# How the events in a history are kept: one, a sequence, or a sequence for each epoch.
ONE: dict[str, type[Event]] = {"started": RunStarted}
MANY: dict[str, type[Event]] = {"starts": RunStarted, "finished": RunFinished, "ablations": ExchangeAblation}
BY_EPOCH: dict[str, type[Event]] = {"evaluations": Evaluation, "epochs": Epoch, "checks": Check}


@dataclass(frozen=True)
class StoredSteps:
    """Steps that stand in a file of an earlier report: `rows` of them from `first` on."""

    part: Path
    first: int
    rows: int
    experiment: str


@dataclass(frozen=True, kw_only=True)
class Digest:
    """One repeat of one run. `spec` is None where it can't be read; `history` has none of its large parts.

    `configuration` is what all repeats of a run have in common and no other run has, empty without a spec.
    `observed` is what each rule sees in a finished run, by its code; `first_losses` are those of the steps
    that parity is judged by; `curve` is the loss over training: steps, and the mean around each.
    """

    run_id: str = ""
    spec: RunSpec | None = None
    configuration: str = ""
    history: History
    figures: Figures | None = None
    epochs: tuple[rows.Row, ...] = ()
    observed: Mapping[str, Observation] = field(default_factory=dict)
    first_losses: tuple[float, ...] = ()
    curve: tuple[Sequence[float], Sequence[float]] = ((), ())
    steps: StepTable | StoredSteps = field(default_factory=StepTable.empty)


def digest(folder: RunFolder, claimed: Collection[int]) -> Digest:
    """Read a run. What can't be read is a state of the run, not an error."""
    spec, run_id = None, ""
    try:
        spec, run_id = _read_spec(folder)
        history = read_history(folder, spec, run_id, {*claimed, *folder.attempts()})
    except (RecordError, OSError) as error:
        broken = History(state=State.UNREADABLE, reason=str(error), problems=(str(error),))
        return Digest(run_id=run_id, spec=spec, configuration=_configuration(spec), history=broken)
    steps = step_table(history.windows)
    return Digest(
        run_id=run_id,
        spec=spec,
        configuration=_configuration(spec),
        history=history.kept(),
        figures=figures(history, spec),
        epochs=tuple(rows.epoch_rows(history, spec, steps)),
        observed=_observed(history, spec) if history.state is State.FINISHED else {},
        first_losses=_first_losses(steps),
        curve=_curve(steps),
        steps=steps,
    )


def _read_spec(folder: RunFolder) -> tuple[RunSpec, str]:
    try:
        stored = json.loads(folder.spec.read_text(encoding="utf-8"))
        return RunSpec.from_json(stored["spec"]), str(stored["run_id"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise RecordError(f"{folder.spec}: this does not describe a run ({reason})") from error


def _configuration(spec: RunSpec | None) -> str:
    return replace(spec, seed=0).run_id if spec else ""


def _observed(history: History, spec: RunSpec) -> dict[str, Observation]:
    repeat = Repeat(experiment=spec.name, spec=spec, history=history)
    seen = {rule.code: rule.of_repeat(repeat) for rule in RULES if rule.of_repeat is not None}
    return {code: observation for code, observation in seen.items() if observation is not None}


def _first_losses(steps: StepTable) -> tuple[float, ...]:
    """Return the mean losses of the first steps, none where any of them is unknown."""
    first = steps.step < PARITY_STEPS
    losses = steps.loss[first]
    whole = steps.step[first].tolist() == list(range(len(losses))) and not np.isnan(losses).any()
    return tuple(losses.tolist()) if whole else ()


def _curve(steps: StepTable) -> tuple[Sequence[float], Sequence[float]]:
    """Return the loss in bins of equally many steps: their middles, counted from 1, and means."""
    known = ~np.isnan(steps.loss)
    if not known.any():
        return (), ()
    step, loss = steps.step[known], steps.loss[known]
    width = math.ceil((int(step.max()) + 1) / MOST_POINTS)
    places, which = np.unique(step // width, return_inverse=True)
    means = np.bincount(which, weights=loss) / np.bincount(which)
    return (places * width + (width + 1) / 2).tolist(), [float(f"{mean:.{DIGITS}g}") for mean in means]


def to_json(kept: Digest) -> dict[str, Any]:
    """Return plain values, and dataclasses that orjson writes as such, without the steps."""
    history = _values(kept.history)
    return {
        "run_id": kept.run_id,
        "spec": _values(kept.spec),
        "configuration": kept.configuration,
        "history": {name: value for name, value in history.items() if name not in LARGE},
        "figures": kept.figures,
        "epochs": kept.epochs,
        "observed": kept.observed,
        "first_losses": kept.first_losses,
        "curve": kept.curve,
    }


def _values(kept: Any) -> Any:
    """Return the fields of a dataclass, and nothing that it has worked out from them."""
    return None if kept is None else {each.name: getattr(kept, each.name) for each in fields(kept)}


def from_json(data: Mapping[str, Any], steps: StoredSteps) -> Digest:
    """Return what `to_json` was made of. Raises KeyError, TypeError or ValueError for anything else."""
    derived = data["figures"]
    return Digest(
        run_id=data["run_id"],
        spec=RunSpec.from_json(data["spec"]) if data["spec"] else None,
        configuration=data["configuration"],
        history=_history(data["history"]),
        figures=Figures(**{**derived, "staleness": _by_number(derived["staleness"])}) if derived else None,
        epochs=tuple(data["epochs"]),
        observed={code: Observation(**seen) for code, seen in data["observed"].items()},
        first_losses=tuple(data["first_losses"]),
        curve=tuple(data["curve"]),
        steps=steps,
    )


def _by_number(counts: Mapping[str, int] | None) -> dict[int, int] | None:
    return None if counts is None else {int(value): count for value, count in counts.items()}


def _history(data: Mapping[str, Any]) -> History:
    values = dict(data) | {"state": State(data["state"])}
    values |= {name: tuple(data[name]) for name in ("attempts", "problems")}
    values |= {name: cls(**data[name]) if data[name] else None for name, cls in ONE.items()}
    values |= {name: _events(cls, data[name]) for name, cls in MANY.items()}
    values |= {
        name: {int(epoch): _events(cls, lines) for epoch, lines in data[name].items()}
        for name, cls in BY_EPOCH.items()
    }
    return History(**values).kept()


def _events(cls: type[Event], lines: Iterable[Mapping[str, Any]]) -> tuple[Any, ...]:
    return tuple(cls(**line) for line in lines)
