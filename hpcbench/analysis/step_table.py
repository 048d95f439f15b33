"""The loss and the accuracy of every step of a run."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hpcbench.analysis.windows import Windows


@dataclass(frozen=True)
class StepTable:
    """The steps of a run whose loss is known, as arrays; NaN where a loss was not finite."""

    epoch: NDArray[np.int64]
    step: NDArray[np.int64]
    loss: NDArray[np.float64]
    acc_pct: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.step)

    @classmethod
    def empty(cls) -> StepTable:
        """Return the table of a run without a known loss."""
        whole, number = np.empty(0, np.int64), np.empty(0)
        return cls(whole, whole, number, number)


def step_table(windows: Windows) -> StepTable:
    """Return mean loss and accuracy of every step, over the ranks that see a loss, warm-up steps too."""
    told = _with_loss(windows)
    lengths = told.steps
    first = np.repeat(told.first_step - np.cumsum(lengths) + lengths, lengths)
    samples = np.repeat(told.numbers("loss_samples").sum(axis=1), lengths)
    return StepTable(
        epoch=np.repeat(told.epoch, lengths),
        step=first + np.arange(len(first)),
        loss=_summed(told, "loss_sum") / samples,
        acc_pct=100 * _summed(told, "correct") / samples,
    )


def _with_loss(windows: Windows) -> Windows:
    """Return the ranks that see a loss, and of them the windows that all of them have seen one in."""
    seen = [(rank, rank.told["loss_sum"] & (rank.windows["loss_samples"] > 0)) for rank in windows.ranks]
    those = [(rank, found) for rank, found in seen if found.any()]
    if not those:
        return Windows()
    whole = np.flatnonzero(np.all([found for _, found in those], axis=0))
    return replace(windows, ranks=tuple(rank for rank, _ in those)).taken(whole)


def _summed(windows: Windows, name: str) -> NDArray[np.float64]:
    """Return what stands there for each step, summed over the ranks; NaN where one of them does not know."""
    total = np.zeros(int(windows.steps.sum()))
    for rank in windows.ranks:
        total += rank.steps[name]
    return total
