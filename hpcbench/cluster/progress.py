"""How far a running run is, from the last records of its ranks."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from hpcbench.records.events import RunStarted, Steps
from hpcbench.records.layout import RunFolder
from hpcbench.records.tail import Line, first_line, last_lines


@dataclass(frozen=True, kw_only=True)
class Progress:
    """`rate_samples_s` is that of the last window of each rank, `eta_s` counts evaluation in."""

    step: int
    steps: int | None
    epoch: int
    epochs: int | None
    rate_samples_s: float | None = None
    eta_s: float | None = None


def read_progress(folder: RunFolder, attempt: int, spec: dict[str, Any]) -> Progress | None:
    """Return how far a run is; None while its ranks are still starting."""
    began = first_line(folder.events(attempt, 0))
    if began is None or began["event"] != RunStarted.kind:
        return None
    steps, per_epoch = began.get("total_steps"), began.get("steps_per_epoch")
    epochs = -(-steps // per_epoch) if steps and per_epoch else None
    windows = [_last_window(folder, attempt, rank) for rank in range(spec["ranks"])]
    if windows[0] is None:
        return Progress(step=0, steps=steps, epoch=0, epochs=epochs)
    done = windows[0]["first_step"] + windows[0]["steps"]
    return Progress(
        step=done,
        steps=steps,
        epoch=windows[0]["epoch"],
        epochs=epochs,
        rate_samples_s=_rate(windows),
        eta_s=_eta_s(began, windows[0], done, steps),
    )


def _last_window(folder: RunFolder, attempt: int, rank: int) -> Line | None:
    lines = last_lines(folder.events(attempt, rank))
    return next((line for line in reversed(lines) if line["event"] == Steps.kind), None)


def _rate(windows: list[Line | None]) -> float | None:
    rates = [window["samples"] / window["wall_s"] for window in windows if window and window["wall_s"]]
    return sum(rates) if rates else None


def _eta_s(began: Line, window: Line, done: int, steps: int | None) -> float | None:
    """Project the pace since the start, evaluations included, onto the steps that are left."""
    if not steps or not done:
        return None
    pace_s: float = (window["time_ns"] - began["time_ns"]) / 1e9 / done
    since_s: float = time.time() - window["time_ns"] / 1e9
    return max(0.0, pace_s * (steps - done) - since_s)
