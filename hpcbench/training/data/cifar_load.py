"""CIFAR-10 and CIFAR-100 for training: zero padding of 4, random crop, mirror image, normalisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hpcbench.training.data import cifar
from hpcbench.training.data.augment import CropAndFlip, Moment, Normalise
from hpcbench.training.data.imagedata import EVALUATION, TRAIN, Context, ImageDataset, Recipe, assemble
from hpcbench.training.data.workers import Decoded

PADDING = 4
FILES_OF = {TRAIN: "train", EVALUATION: "test"}


class Cifar:
    """One part, as it was read: rows are turned into images for each batch."""

    def __init__(self, part: cifar.Part) -> None:
        self._part = part
        self.labels = torch.from_numpy(part.labels)
        self.parallel = False  # reordering bytes costs less than handing them to another process
        self.shape = (cifar.SIDE, cifar.SIDE)

    def __len__(self) -> int:
        return len(self.labels)

    def decode(self, samples: Tensor, moment: Moment, into: Tensor | None = None) -> Decoded:
        """Return images as they are, before augmentation."""
        pixels = self._part.decode(samples.numpy())
        return Decoded(torch.from_numpy(pixels), self.labels[samples], samples)


def load(*, context: Context, **_: Any) -> ImageDataset:
    """Return the data set that the run names; raises InputError naming the file that is in the way."""
    spec = context.spec
    root = context.root()
    edition = cifar.EDITIONS[spec.dataset]
    parts = {part: Cifar(cifar.read(spec.dataset, root, files)) for part, files in FILES_OF.items()}
    recipe = Recipe(
        classes=edition.classes,
        cacheable=True,
        key=spec.dataset,
        augmentation=CropAndFlip(PADDING),
        normalise=Normalise(edition.mean, edition.deviation, context.dtype, spec.channels_last),
    )
    return assemble(recipe, {part: (each, each.labels) for part, each in parts.items()}, context)
