"""Windows of steps as columns of numbers: a run of hours has more than one could build objects for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hpcbench.records.events import Steps

LISTS = ("step_s", "loss_sum", "correct")  # one entry a step
NUMBERS = tuple(each.name for each in dataclasses.fields(Steps) if each.name not in LISTS)

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class StepColumns:
    """Windows of one rank, in the order of their lines: float64, NaN where something is not known.

    `windows` has one entry a window, of each field of `Steps` that is no list; `steps` one entry a step, of
    each that is; `told` says of which windows there is such a list.
    """

    windows: Mapping[str, Numbers] = field(default_factory=lambda: dict.fromkeys(NUMBERS, np.empty(0)))
    steps: Mapping[str, Numbers] = field(default_factory=lambda: dict.fromkeys(LISTS, np.empty(0)))
    told: Mapping[str, NDArray[np.bool_]] = field(
        default_factory=lambda: dict.fromkeys(LISTS, np.empty(0, dtype=bool))
    )

    def __len__(self) -> int:
        return len(self.windows["steps"])

    @classmethod
    def of(cls, windows: Sequence[Steps]) -> StepColumns:
        """Return the columns of some windows. Raises OverflowError for a number beyond float64."""
        lists = {name: [getattr(each, name) for each in windows] for name in LISTS}
        unknown = [[None] * each.steps for each in windows]
        entries = {
            name: [entry for some, none in zip(column, unknown, strict=True) for entry in some or none]
            for name, column in lists.items()
        }
        return cls(
            {name: np.array([getattr(each, name) for each in windows], dtype=float) for name in NUMBERS},
            {name: np.array(each, dtype=float) for name, each in entries.items()},
            {name: np.array([some is not None for some in each], bool) for name, each in lists.items()},
        )

    def taken(self, places: NDArray[np.int64]) -> StepColumns:
        """Return the windows at these places, in this order: views of these where they follow each other."""
        if not len(places):
            return StepColumns()
        lengths = self.windows["steps"].astype(np.int64)
        ends = np.cumsum(lengths)
        which: slice | NDArray[np.int64] = places
        if (np.diff(places) == 1).all():
            which = slice(places[0], places[-1] + 1)
            steps: slice | NDArray[np.int64] = slice(ends[places[0]] - lengths[places[0]], ends[places[-1]])
        else:
            behind = ends[places] - np.cumsum(lengths[places])  # how far each moves to the front
            steps = np.arange(lengths[places].sum()) + np.repeat(behind, lengths[places])
        return StepColumns(
            {name: column[which] for name, column in self.windows.items()},
            {name: column[steps] for name, column in self.steps.items()},
            {name: column[which] for name, column in self.told.items()},
        )

    @classmethod
    def joined(cls, parts: Sequence[StepColumns]) -> StepColumns:
        """Return the windows of several files, one after the other."""
        alike = zip(*((part.windows, part.steps, part.told) for part in parts), strict=True)
        return cls(
            *({name: np.concatenate([each[name] for each in same]) for name in same[0]} for same in alike)
        )
