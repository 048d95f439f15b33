"""The digest of a run: figures, epochs and observations, without what grows with every step.

It is what the cache keeps.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from pydantic import ConfigDict, TypeAdapter

from hpcbench.analysis import figure_registry, result_rows
from hpcbench.analysis.run_figures import (
    PARITY_STEPS,
    FinishedRepeat,
    Observation,
    RunChecks,
    RunFigures,
    derive_figures,
)
from hpcbench.analysis.run_history import LARGE_FIELDS, RecordedState, RunHistory, read_history
from hpcbench.analysis.step_tables import StepTable, StoredSteps, step_table
from hpcbench.errors import RecordError
from hpcbench.runs.results_folder import RunFolder, read_spec_json
from hpcbench.sweep.run_spec import RunSpec

MAX_CURVE_POINTS = 120  # of a curve over steps: a line of more is noise to the eye
CURVE_DIGITS = 7  # of a point: more are not seen, and thousands of curves are cached


@dataclass(frozen=True, kw_only=True)
class RunDigest:
    """One repeat of one run. `spec` is None where it can't be read; `history` has none of its large parts.

    `observed` is what each check found in a finished run, by its code; `first_losses` are those of the steps
    that parity is judged by; `curve` is the loss over training: steps, and the mean around each.
    """

    run_id: str = ""
    spec: RunSpec | None = None
    history: RunHistory
    figures: RunFigures | None = None
    epochs: tuple[figure_registry.Row, ...] = ()
    observed: Mapping[str, Observation] = field(default_factory=dict)
    first_losses: tuple[float, ...] = ()
    curve: tuple[Sequence[float], Sequence[float]] = ((), ())
    steps: StepTable | StoredSteps = field(default_factory=StepTable.empty)


def read_digest(folder: RunFolder, claimed: Collection[int], checks: RunChecks) -> RunDigest:
    """Read a run, and apply the checks if it is finished.

    What cannot be read is a state of the run, not an error.
    """
    spec, run_id = None, ""
    try:
        spec, run_id = _read_spec(folder)
        history = read_history(folder, spec, run_id, {*claimed, *folder.attempts()})
    except (RecordError, OSError) as error:
        broken = RunHistory(state=RecordedState.UNREADABLE, reason=str(error), problems=(str(error),))
        return RunDigest(run_id=run_id, spec=spec, history=broken)
    steps = step_table(history.windows)
    return RunDigest(
        run_id=run_id,
        spec=spec,
        history=history.kept(),
        figures=derive_figures(history, spec),
        epochs=tuple(result_rows.epoch_rows(history, spec, steps)),
        observed=_observations(history, spec, checks) if history.state is RecordedState.FINISHED else {},
        first_losses=_first_losses(steps),
        curve=_loss_curve(steps),
        steps=steps,
    )


def _read_spec(folder: RunFolder) -> tuple[RunSpec, str]:
    stored = read_spec_json(folder)
    try:
        return RunSpec.from_json(stored["spec"]), str(stored["run_id"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RecordError(f"{folder.spec}: this does not describe a run ({error!r})") from error


def _observations(history: RunHistory, spec: RunSpec, checks: RunChecks) -> dict[str, Observation]:
    repeat = FinishedRepeat(experiment=spec.name, spec=spec, history=history)
    observed = {code: check(repeat) for code, check in checks.items()}
    return {code: observation for code, observation in observed.items() if observation is not None}


def _first_losses(steps: StepTable) -> tuple[float, ...]:
    """Return the mean losses of the first steps, none where any of them is unknown."""
    first = steps.step < PARITY_STEPS
    losses = steps.loss[first]
    whole = steps.step[first].tolist() == list(range(len(losses))) and not np.isnan(losses).any()
    return tuple(losses.tolist()) if whole else ()


def _loss_curve(steps: StepTable) -> tuple[Sequence[float], Sequence[float]]:
    """Return the loss in bins of equally many steps: their middles, counted from 1, and means."""
    known = ~np.isnan(steps.loss)
    if not known.any():
        return (), ()
    step, loss = steps.step[known], steps.loss[known]
    width = math.ceil((int(step.max()) + 1) / MAX_CURVE_POINTS)
    places, which = np.unique(step // width, return_inverse=True)
    means = np.bincount(which, weights=loss) / np.bincount(which)
    return (places * width + (width + 1) / 2).tolist(), [float(f"{mean:.{CURVE_DIGITS}g}") for mean in means]


def digest_to_json(kept: RunDigest) -> dict[str, Any]:
    """Return plain values, and dataclasses that orjson writes as such, without the steps."""
    history = _field_values(kept.history)
    return {
        "run_id": kept.run_id,
        "spec": _field_values(kept.spec),
        "history": {name: value for name, value in history.items() if name not in LARGE_FIELDS},
        "figures": kept.figures,
        "epochs": kept.epochs,
        "observed": kept.observed,
        "first_losses": kept.first_losses,
        "curve": kept.curve,
    }


def _field_values(kept: Any) -> Any:
    """Return the fields of a dataclass, and nothing that it has worked out from them."""
    return None if kept is None else {each.name: getattr(kept, each.name) for each in fields(kept)}


def digest_from_json(data: Mapping[str, Any], steps: StoredSteps) -> RunDigest:
    """Return what `digest_to_json` was made of. Raises KeyError, TypeError or ValueError otherwise."""
    spec = RunSpec.from_json(data["spec"]) if data["spec"] else None  # keeps integers, which ids depend on
    (digest,) = _digest_adapter().validate_python([{**data, "spec": spec}])
    return replace(digest, history=digest.history.kept(), steps=steps)


@functools.cache
def _digest_adapter() -> TypeAdapter[list[RunDigest]]:
    # A list, because pydantic takes no configuration for a dataclass itself.
    return TypeAdapter(list[RunDigest], config=ConfigDict(arbitrary_types_allowed=True))
