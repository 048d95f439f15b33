"""scikit-learn's digits: 1,797 real scans of handwritten digits, 8 x 8, that ship with the package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpcbench.strategies.base import Batch
from hpcbench.training.data.base import Dataset

SPLIT_SEED = 0
TRAIN_SHARE = 0.8
BRIGHTEST = 16.0
SIDE = 8


class Digits(Dataset):
    """The images in memory as they are, normalised when they are taken; a fixed split into 80 and 20 %."""

    channels = 1
    classes = 10
    shuffled = True

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        rows = read_rows()
        images = rows[:, :-1].reshape(-1, 1, SIDE, SIDE)  # 0 to 16
        labels = rows[:, -1].long()
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


def read_rows() -> Tensor:
    """Read scikit-learn's file: 64 pixels and the label a row, float64.

    Not by its load_digits: importing that takes as long as importing torch, in each process of each run.
    """
    found = importlib.util.find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("the digits come with scikit-learn, which is not installed")
    path = Path(found.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    return torch.from_numpy(np.loadtxt(path, delimiter=","))


def load(*, device: torch.device, dtype: torch.dtype, **_: Any) -> Digits:
    """Return the data set on a device."""
    return Digits(device, dtype)
