"""Batches, the sums of their losses, the protocol of a data set, and the loader that gives each rank its
shard of every global batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


@dataclass(frozen=True)
class Batch:
    """`images` has the shape [samples, channels, height, width], `labels` [samples] (int64)."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Shard:
    """The part of each global batch that a rank sees: number `index` of `count`."""

    index: int
    count: int


@dataclass(frozen=True)
class LossSums:
    """Sums over samples, kept on the device: cross entropy (float), right answers (int64), samples."""

    loss_sum: Tensor
    correct: Tensor
    samples: int

    def __add__(self, other: LossSums) -> LossSums:
        return LossSums(
            self.loss_sum + other.loss_sum, self.correct + other.correct, self.samples + other.samples
        )

    def detach(self) -> LossSums:
        """Return the sums without what would be needed to go backward from them."""
        return LossSums(self.loss_sum.detach(), self.correct, self.samples)


def sum_losses(parts: Sequence[LossSums]) -> LossSums:
    """Return the sums over all parts, of which there is at least one."""
    total = parts[0]
    for sums in parts[1:]:
        total = total + sums
    return total


def measure_logits(
    logits: Tensor, labels: Tensor, mask: Tensor | None = None, *, label_smoothing: float = 0.0
) -> LossSums:
    """Sum loss and right answers; `mask` [samples] (bool) leaves out what only pads the batch."""
    losses = cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
    right = logits.detach().argmax(dim=1) == labels
    if mask is None:
        return LossSums(losses.sum(), right.sum(), len(labels))
    return LossSums((losses * mask).sum(), (right & mask).sum(), int(mask.sum()))


class LabelledDataset(Protocol):
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

    def pop_replaced_count(self) -> int:
        """Return how many corrupt samples were replaced by others since the last call."""
        return 0

    def all_ranks_loaded(self) -> None:
        """Every rank of the run has loaded the data set."""
        return

    def close(self) -> None:
        """The run is over."""
        return


def epoch_order(dataset: LabelledDataset, seed: int, epoch: int) -> Tensor:
    """Return the order of all training samples in an epoch: a function of seed and epoch alone.

    Which samples the remainder drops is therefore different in each epoch and the same for every strategy.
    """
    if not dataset.shuffled:
        return torch.arange(dataset.train_samples)
    generator = torch.Generator().manual_seed((seed << 32) + epoch)
    return torch.randperm(dataset.train_samples, generator=generator)


@dataclass(frozen=True)
class ShardLoader:
    """The batches of one rank's shard: sample i of the global batch is the same for any number of shards."""

    dataset: LabelledDataset
    shard: Shard
    batch_size: int  # of this shard
    accumulation: int
    seed: int

    def train(self, epoch: int, steps: Sequence[int]) -> Iterator[list[Batch]]:
        """Yield the micro-batches of each step; `steps` count from 0 within the epoch."""
        order = epoch_order(self.dataset, self.seed, epoch)
        global_batch = self.batch_size * self.shard.count
        starts = [step * global_batch + self.shard.index * self.batch_size for step in steps]
        shards = [order[start : start + self.batch_size] for start in starts]
        for batch in self.dataset.train_batches(shards, epoch):
            yield list(_split_batch(batch, self.accumulation))

    def evaluation(self) -> Iterator[tuple[Batch, Tensor]]:
        """Yield this shard of the validation set as (batch, mask).

        All shards yield equally many batches; what pads the last ones repeats a sample and is masked out, so
        that over all shards each sample counts exactly once.
        """
        total, stride = self.dataset.evaluation_samples, self.batch_size * self.shard.count
        starts = [
            index * stride + self.shard.index * self.batch_size for index in range(math.ceil(total / stride))
        ]
        padded = [torch.arange(start, start + self.batch_size) for start in starts]
        batches = self.dataset.evaluation_batches([samples.clamp(max=total - 1) for samples in padded])
        for samples, batch in zip(padded, batches, strict=True):
            yield batch, (samples < total).to(batch.labels.device)


def _split_batch(batch: Batch, parts: int) -> Iterator[Batch]:
    for images, labels in zip(batch.images.chunk(parts), batch.labels.chunk(parts), strict=True):
        yield Batch(images, labels)
