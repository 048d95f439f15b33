"""What a data set is, and in which order its samples are seen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from hpcbench.strategies.base import Batch, Seat


class Dataset(Protocol):
    """Samples by their number. Batches arrive on the rank's device, normalised, in the run's dtype.

    What is asked for as many batches may be prepared ahead of its use.
    """

    channels: int
    classes: int
    train_samples: int
    evaluation_samples: int
    workers: int = 0  # processes that prepare batches of this rank; 0: it does so itself, between two steps
    shuffled: bool  # False: the order of samples does not matter, and they are taken as they lie

    def train_batch(self, samples: Tensor, epoch: int) -> Batch:
        """Return training samples, augmented for this epoch (which counts from 0)."""

    def evaluation_batch(self, samples: Tensor) -> Batch:
        """Return samples of the validation set."""

    def train_batches(self, batches: Sequence[Tensor], epoch: int) -> Iterator[Batch]:
        """Yield `train_batch` of each."""
        return (self.train_batch(samples, epoch) for samples in batches)

    def evaluation_batches(self, batches: Sequence[Tensor]) -> Iterator[Batch]:
        """Yield `evaluation_batch` of each."""
        return (self.evaluation_batch(samples) for samples in batches)

    def take_replaced(self) -> int:
        """Return how many corrupt samples were replaced by others since the last call."""
        return 0

    def everyone_is_ready(self) -> None:
        """Every rank of the run has loaded the data set."""
        return

    def close(self) -> None:
        """The run is over."""
        return


def epoch_order(dataset: Dataset, seed: int, epoch: int) -> Tensor:
    """Return the order of all training samples in an epoch: a function of seed and epoch alone.

    Which samples the remainder drops is therefore different in each epoch and the same for every strategy.
    """
    if not dataset.shuffled:
        return torch.arange(dataset.train_samples)
    generator = torch.Generator().manual_seed((seed << 32) + epoch)
    return torch.randperm(dataset.train_samples, generator=generator)


@dataclass(frozen=True)
class Loader:
    """The batches of one rank's shard: sample i of the global batch is the same for any number of shards."""

    dataset: Dataset
    seat: Seat
    batch_size: int  # of this shard
    accumulation: int
    seed: int

    def train(self, epoch: int, steps: Sequence[int]) -> Iterator[list[Batch]]:
        """Yield the micro-batches of each step; `steps` count from 0 within the epoch."""
        order = epoch_order(self.dataset, self.seed, epoch)
        global_batch = self.batch_size * self.seat.shards
        firsts = [step * global_batch + self.seat.shard * self.batch_size for step in steps]
        mine = [order[first : first + self.batch_size] for first in firsts]
        for batch in self.dataset.train_batches(mine, epoch):
            yield list(_cut(batch, self.accumulation))

    def evaluation(self) -> Iterator[tuple[Batch, Tensor]]:
        """Yield this shard of the validation set as (batch, mask).

        All shards yield equally many batches; what pads the last ones repeats a sample and is masked out, so
        that over all shards each sample counts exactly once.
        """
        total, stride = self.dataset.evaluation_samples, self.batch_size * self.seat.shards
        firsts = [
            index * stride + self.seat.shard * self.batch_size for index in range(math.ceil(total / stride))
        ]
        wanted = [torch.arange(first, first + self.batch_size) for first in firsts]
        batches = self.dataset.evaluation_batches([samples.clamp(max=total - 1) for samples in wanted])
        for samples, batch in zip(wanted, batches, strict=True):
            yield batch, (samples < total).to(batch.labels.device)


def _cut(batch: Batch, parts: int) -> Iterator[Batch]:
    for images, labels in zip(batch.images.chunk(parts), batch.labels.chunk(parts), strict=True):
        yield Batch(images, labels)
