"""The windows of a run: columns over windows and training ranks, and each window as an object on demand."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from hpcbench.records.columns import FIELDS, StepColumns, taker
from hpcbench.records.events import Steps

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Window:
    """A window of steps, with what each training rank wrote about it.

    `cold`: it was declared to count, and what came after it shows that the run was not warm yet.
    """

    attempt: int
    parts: tuple[Steps, ...]
    cold: bool = False

    @property
    def first_step(self) -> int:
        """The first step of the window, counted over the whole run."""
        return self.parts[0].first_step

    @property
    def steps(self) -> int:
        """How many steps the window has."""
        return self.parts[0].steps

    @property
    def counted(self) -> bool:
        """Whether the window counts for speed: no rank was still warming up."""
        return not self.cold and all(part.counted for part in self.parts)

    @property
    def samples(self) -> int:
        """Samples consumed by all training ranks."""
        return sum(part.samples for part in self.parts)

    @property
    def wall_s(self) -> float:
        """Time of the slowest rank: the barriers at both ends make it everybody's."""
        return max(part.wall_s for part in self.parts)


@dataclass(frozen=True)
class Windows(Sequence[Window]):
    """Windows in the order of their steps. `ranks` has the columns of each training rank, equally long.

    `cold` has the places of those that were declared to count before the run was warm.
    """

    attempts: tuple[int, ...] = ()
    ranks: tuple[StepColumns, ...] = ()
    cold: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.attempts)

    @overload
    def __getitem__(self, place: int) -> Window: ...

    @overload
    def __getitem__(self, place: slice) -> Windows: ...

    def __getitem__(self, place: int | slice) -> Window | Windows:
        if isinstance(place, slice):
            return self.taken(range(len(self))[place])
        place = range(len(self))[place]
        rows = (zip(FIELDS, (c[place] for c in rank.columns), strict=True) for rank in self.ranks)
        parts = tuple(Steps(**dict(row)) for row in rows)
        return Window(self.attempts[place], parts, place in self.cold)

    def taken(self, places: Sequence[int]) -> Windows:
        """Return the windows at these places."""
        if list(places) == list(range(len(self))):
            return self
        attempts = taker(places)(self.attempts)
        cold = frozenset(new for new, place in enumerate(places) if place in self.cold)
        return Windows(attempts, tuple(rank.taken(places) for rank in self.ranks), cold)

    def numbers(self, name: str) -> Numbers:
        """Return a field as (windows, ranks), not to be changed; NaN where it is None."""
        if name not in self._derived:
            columns = [rank[name] for rank in self.ranks]
            self._derived[name] = np.array(columns, dtype=float).T if columns else np.empty((0, 0))
        return self._derived[name]

    def pooled(self, name: str) -> Numbers:
        """Return the entries of a list of each step, of all windows and ranks; NaN where one is None."""
        lists = itertools.chain.from_iterable(rank[name] for rank in self.ranks)
        return np.array(list(itertools.chain.from_iterable(lists)), dtype=float)

    @cached_property
    def _by_epoch(self) -> dict[int, Windows]:
        return {}

    @cached_property
    def _derived(self) -> dict[str, Numbers]:
        return {}

    @cached_property
    def epoch(self) -> NDArray[np.int64]:
        """The epoch of each window."""
        return self._whole("epoch")

    @cached_property
    def first_step(self) -> NDArray[np.int64]:
        """The first step of each window."""
        return self._whole("first_step")

    @cached_property
    def steps(self) -> NDArray[np.int64]:
        """How many steps each window has."""
        return self._whole("steps")

    @cached_property
    def samples(self) -> Numbers:
        """Samples of each window, over the ranks."""
        total: Numbers = self.numbers("samples").sum(axis=1)
        return total

    @cached_property
    def wall_s(self) -> Numbers:
        """Time of each window on the slowest rank."""
        slowest: Numbers = self.numbers("wall_s").max(axis=1, initial=0.0)
        return slowest

    @cached_property
    def declared(self) -> NDArray[np.bool_]:
        """Whether each window was declared to count: no rank was still in its warm-up steps."""
        if not self.ranks:
            return np.empty(0, dtype=bool)
        told = np.array([rank["counted"] for rank in self.ranks], dtype=bool)
        return np.asarray(told.all(axis=0))

    @cached_property
    def counted(self) -> Windows:
        """The windows that count for speed: declared to, and no longer cold."""
        return self.taken(
            [place for place in np.flatnonzero(self.declared).tolist() if place not in self.cold]
        )

    def of_epoch(self, epoch: int) -> Windows:
        """Return the windows of an epoch."""
        if epoch not in self._by_epoch:
            self._by_epoch[epoch] = self.taken(np.flatnonzero(self.epoch == epoch).tolist())
        return self._by_epoch[epoch]

    def _whole(self, name: str) -> NDArray[np.int64]:
        return np.array(self.ranks[0][name] if self.ranks else (), dtype=np.int64)


@dataclass(frozen=True)
class LeftBehind(Sequence[Any]):
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
        return f"{self.what} are not kept: derive what is needed in analysis/digest.py"
