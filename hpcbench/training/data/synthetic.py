"""Random images of any shape, made on the device: what training costs when input costs nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hpcbench.strategies.base import Batch
from hpcbench.training.data import SyntheticOptions
from hpcbench.training.data.base import Dataset

ROTATING_BATCHES = 8  # one repeated batch gives unrealistic figures


class Synthetic(Dataset):
    """Eight global batches in turn. Sample i is the same whatever the number of shards."""

    shuffled = False

    def __init__(
        self,
        options: SyntheticOptions,
        samples_per_step: int,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
        channels_last: bool = False,
    ) -> None:
        self.channels = options.channels
        self.classes = options.classes
        self.train_samples = options.samples
        self.evaluation_samples = options.evaluation_samples
        pool = min(ROTATING_BATCHES * samples_per_step, max(options.samples, samples_per_step))
        generator = torch.Generator(device).manual_seed(seed)
        size = (pool, options.channels, options.image_size, options.image_size)
        self._images = torch.randn(size, generator=generator, device=device, dtype=dtype)
        if channels_last:
            self._images = self._images.contiguous(memory_format=torch.channels_last)
        self._labels = torch.randint(options.classes, (pool,), generator=generator, device=device)

    def train_batch(self, samples: Tensor, epoch: int) -> Batch:
        """Return a slice of the pool without copying it: samples are taken as they lie."""
        first = int(samples[0]) % len(self._labels)
        last = first + len(samples)
        if last <= len(self._labels):
            return Batch(self._images[first:last], self._labels[first:last])
        return self.evaluation_batch(samples)

    def evaluation_batch(self, samples: Tensor) -> Batch:
        """Return samples from the same pool; random labels have nothing to validate."""
        rows = samples.to(self._labels.device) % len(self._labels)
        return Batch(self._images[rows], self._labels[rows])


def load(
    *,
    device: torch.device,
    dtype: torch.dtype,
    samples_per_step: int,
    seed: int,
    options: SyntheticOptions,
    channels_last: bool = False,
    **_: Any,
) -> Synthetic:
    """Return the data set on a device."""
    return Synthetic(options, samples_per_step, seed, device, dtype, channels_last)
