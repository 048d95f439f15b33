"""The windows of a run as columns over windows and training ranks, and where the run was warm."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.runs.rank_records import FloatColumn, StepColumns

WindowIndices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RunWindows:
    """Windows in the order of their steps. `ranks` has the columns of each training rank, equally long.

    `attempts` are those that did them. `cold` are those that were declared to count before the run was warm.
    """

    attempts: WindowIndices = field(default_factory=lambda: np.empty(0, np.int64))
    ranks: tuple[StepColumns, ...] = ()
    cold: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, bool))

    def __len__(self) -> int:
        return len(self.attempts)

    def taken(self, places: WindowIndices) -> RunWindows:
        """Return the windows at these places, which ascend."""
        if len(places) == len(self):
            return self
        return RunWindows(
            self.attempts[places], tuple(rank.taken(places) for rank in self.ranks), self.cold[places]
        )

    def numbers(self, name: str) -> FloatColumn:
        """Return a field as (windows, ranks), not to be changed; NaN where it is None."""
        if name not in self._derived:
            columns = [rank.windows[name] for rank in self.ranks]
            self._derived[name] = np.stack(columns, axis=1) if columns else np.empty((0, 0))
        return self._derived[name]

    def pooled(self, name: str) -> FloatColumn:
        """Return what stands there for each step, of all windows and ranks; NaN where one is None."""
        return np.concatenate([np.empty(0), *(rank.steps[name] for rank in self.ranks)])

    @cached_property
    def _by_epoch(self) -> dict[int, RunWindows]:
        return {}

    @cached_property
    def _derived(self) -> dict[str, FloatColumn]:
        return {}

    @cached_property
    def epoch(self) -> NDArray[np.int64]:
        """The epoch of each window."""
        return self._whole("epoch")

    @cached_property
    def first_step(self) -> NDArray[np.int64]:
        """The first step of each window, counted over the whole run."""
        return self._whole("first_step")

    @cached_property
    def steps(self) -> NDArray[np.int64]:
        """How many steps each window has."""
        return self._whole("steps")

    @cached_property
    def samples(self) -> FloatColumn:
        """Samples of each window, over the training ranks."""
        total: FloatColumn = self.numbers("samples").sum(axis=1)
        return total

    @cached_property
    def wall_s(self) -> FloatColumn:
        """Time of each window on the slowest rank: barriers at both ends make it the time of all."""
        slowest: FloatColumn = self.numbers("wall_s").max(axis=1, initial=0.0)
        return slowest

    @cached_property
    def declared(self) -> NDArray[np.bool_]:
        """Whether each window was declared to count: no rank was still in its warm-up steps."""
        return np.asarray(self.numbers("counted").all(axis=1))

    @cached_property
    def counted(self) -> RunWindows:
        """The windows that count for speed: declared to, and no longer cold."""
        return self.taken(np.flatnonzero(self.declared & ~self.cold))

    def of_epoch(self, epoch: int) -> RunWindows:
        """Return the windows of an epoch."""
        if epoch not in self._by_epoch:
            self._by_epoch[epoch] = self.taken(np.flatnonzero(self.epoch == epoch))
        return self._by_epoch[epoch]

    def _whole(self, name: str) -> NDArray[np.int64]:
        return (self.ranks[0].windows[name] if self.ranks else np.empty(0)).astype(np.int64)


@dataclass(frozen=True)
class DroppedData(Sequence[Any]):
    """Stands for what is too large to be kept after a run's figures have been derived from it."""

    what: str

    def __len__(self) -> int:
        raise AssertionError(self._message)

    def __getitem__(self, place: Any) -> Any:
        raise AssertionError(self._message)

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError(self._message)

    @property
    def _message(self) -> str:
        return f"{self.what} are not kept: derive what is needed in analysis/run_digest.py"


WARM_TOLERANCE = 0.05
MAX_COLD_SHARE = 0.25


def cold_windows(step_s: Sequence[float]) -> int:
    """Return how many windows at the beginning are not warm yet; `step_s` is the mean step of each.

    The bound where none of the first quarter is warm.
    """
    most = int(MAX_COLD_SHARE * len(step_s))
    for index in range(most):
        if step_s[index] <= (1 + WARM_TOLERANCE) * statistics.median(step_s[index + 1 :]):
            return index
    return most


def mark_cold_windows(windows: RunWindows) -> RunWindows:
    """Return the windows of a run, those marked that stand before each attempt was warm."""
    step_s = windows.wall_s / windows.steps
    cold = np.zeros(len(windows), dtype=bool)
    for number in np.unique(windows.attempts):
        of_attempt = np.flatnonzero((windows.attempts == number) & windows.declared)
        cold[of_attempt[: cold_windows(step_s[of_attempt].tolist())]] = True
    return replace(windows, cold=cold)
