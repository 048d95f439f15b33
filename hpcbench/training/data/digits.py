"""scikit-learn's digits: 1,797 real scans of handwritten digits, 8 x 8, that ship with the package."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from hpcbench.strategies.base import Batch
from hpcbench.training.data.base import Dataset

SPLIT_SEED = 0
TRAIN_SHARE = 0.8
BRIGHTEST = 16.0


class Digits(Dataset):
    """The images in memory as they are, normalised when they are taken; a fixed split into 80 and 20 %."""

    channels = 1
    classes = 10
    shuffled = True

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        bunch = load_digits()
        images = torch.from_numpy(bunch.images).unsqueeze(1)  # [samples, 1, 8, 8], 0 to 16
        labels = torch.from_numpy(bunch.target).long()
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SPLIT_SEED))
        images, labels = images[order], labels[order]
        self.train_samples = int(TRAIN_SHARE * len(labels))
        self.evaluation_samples = len(labels) - self.train_samples
        training = images[: self.train_samples] / BRIGHTEST
        normalised = (images / BRIGHTEST - training.mean()) / training.std()
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


def load(*, device: torch.device, dtype: torch.dtype, **_: Any) -> Digits:
    """Return the data set on a device."""
    return Digits(device, dtype)
