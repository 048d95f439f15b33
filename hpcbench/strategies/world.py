"""What a strategy is given: the ranks and devices of the run, the precision policy, and the factory of its
optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


@dataclass(frozen=True)
class World:
    """The ranks of a run. `trainers` is the group of those that train; None where nothing is communicated.

    Training ranks are numbered 0 to `training_ranks` - 1, servers come after them. `device` is the one that
    batches are on; a strategy that uses several in one process finds the rest in `more_devices`. `control` is
    the group in which servers are told what to do; None where there are none.
    """

    rank: int
    size: int
    training_ranks: int
    device: torch.device
    trainers: dist.ProcessGroup | None = None
    more_devices: tuple[torch.device, ...] = ()
    control: dist.ProcessGroup | None = None

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """All devices of this process. One may stand there several times, where the others are missing."""
        return (self.device, *self.more_devices)


class PrecisionPolicy(Protocol):
    """How a strategy computes: autocast, and scaling of the loss where gradients may underflow."""

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context for forward and loss."""

    def scaled(self, loss: Tensor) -> Tensor:
        """Return what to back-propagate from: the loss, scaled where the precision asks for it."""

    def step(self, optimizer: Optimizer, group: dist.ProcessGroup | None) -> None:
        """Update, unless a gradient of any rank in the group is not finite: then all of them skip."""
