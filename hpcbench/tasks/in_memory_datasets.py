"""Data sets that need no files: scikit-learn's digits, and random images generated on the device."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpcbench.tasks.batches import Batch, LabelledDataset
from hpcbench.tasks.task_registry import SyntheticOptions

SPLIT_SEED = 0
TRAIN_SHARE = 0.8
MAX_BRIGHTNESS = 16.0
DIGITS_SIDE = 8


class Digits(LabelledDataset):
    """The images in memory as they are, normalised when they are taken; a fixed split into 80 and 20 %."""

    channels = 1
    classes = 10
    shuffled = True

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        rows = read_rows()
        images = rows[:, :-1].reshape(-1, 1, DIGITS_SIDE, DIGITS_SIDE)  # 0 to 16
        labels = rows[:, -1].long()
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SPLIT_SEED))
        images, labels = images[order], labels[order]
        self.train_samples = int(TRAIN_SHARE * len(labels))
        self.evaluation_samples = len(labels) - self.train_samples
        training = images[: self.train_samples] / MAX_BRIGHTNESS
        normalised = (images / MAX_BRIGHTNESS - training.mean()) / training.std()
        self._images = normalised.to(device, dtype)  # one channel: channels_last changes nothing
        self._labels = labels.to(device)

    def train_batch(self, samples: Tensor, epoch: int) -> Batch:
        """Return training samples; digits are not augmented."""
        return self._take(samples)

    def evaluation_batch(self, samples: Tensor) -> Batch:
        """Return samples of the last fifth."""
        return self._take(samples + self.train_samples)

    def _take(self, rows: Tensor) -> Batch:
        rows = rows.to(self._labels.device)
        return Batch(self._images[rows], self._labels[rows])


def read_rows() -> Tensor:
    """Read scikit-learn's file: 64 pixels and the label a row, float64.

    Not by its load_digits: importing that takes as long as importing torch, in each process of each run.
    """
    found = importlib.util.find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("the digits come with scikit-learn, which is not installed")
    path = Path(found.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    return torch.from_numpy(np.loadtxt(path, delimiter=","))


def load_digits(*, device: torch.device, dtype: torch.dtype, **_: Any) -> Digits:
    """Return the data set on a device."""
    return Digits(device, dtype)


ROTATING_BATCHES = 8  # one repeated batch gives unrealistic figures


class Synthetic(LabelledDataset):
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


def load_synthetic_dataset(
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
