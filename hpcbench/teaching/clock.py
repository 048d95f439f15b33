"""Study 1's clock: it is read before the device has finished."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import nn

from hpcbench.strategies.base import Batch, MakeOptimizer, Replicated, Sums


class BlindClock(Replicated):
    """Each step is put into a thread's queue, as a GPU's driver does it, and nobody waits for it in time.

    One rank. The losses that are recorded are read too early as well.
    """

    def prepare(self, model: nn.Module, make_optimizer: MakeOptimizer) -> None:
        """Open the queue."""
        super().prepare(model, make_optimizer)
        self._queue = ThreadPoolExecutor(max_workers=1)
        self._done: list[Future[Any]] = []

    def forward_backward(self, micro_batches: Sequence[Batch]) -> Sums | None:
        """Put forward and backward into the queue; return sums that will be filled in some day."""
        promised = Sums(
            torch.zeros(()),
            torch.zeros((), dtype=torch.int64),
            sum(len(batch.labels) for batch in micro_batches),
        )
        self._done.append(self._queue.submit(self._work, list(micro_batches), promised))
        return promised

    def update(self, lr: float) -> None:
        """Put the update into the queue."""
        self._done.append(self._queue.submit(super().update, lr))

    def settle(self) -> None:
        """Wait, when no clock runs any more."""
        for each in self._done:
            each.result()
        self._done.clear()

    def _work(self, micro_batches: Sequence[Batch], promised: Sums) -> None:
        sums = super().forward_backward(micro_batches)
        assert sums is not None
        promised.loss_sum.copy_(sums.loss_sum)
        promised.correct.copy_(sums.correct)
