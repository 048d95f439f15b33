"""ImageNet and any folder of class folders for training: random resized crop, mirror image, normalisation.

Either the crop is cut out of the whole picture while that is decoded (the usual recipe), or pictures are
first brought to a square of `decoded_size`, which can be cached, and the crop is taken from that: other
pixels, another recipe, and said so in the sweep.
"""

from __future__ import annotations

import hashlib
import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpcbench.errors import InputError, Place, input_error
from hpcbench.training.data import FolderOptions, layout, pictures
from hpcbench.training.data.augment import (
    Augmentation,
    Box,
    Flip,
    Moment,
    Normalise,
    ResizedCropAndFlip,
    crop_box,
    crop_numbers,
)
from hpcbench.training.data.imagedata import EVALUATION, TRAIN, Context, ImageDataset, Recipe, assemble
from hpcbench.training.data.index import Index
from hpcbench.training.data.workers import Decoded

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which others use as well
FOLDER_OF = {TRAIN: "train", EVALUATION: "val"}


class Pictures:
    """Encoded pictures of one part; `labels` are those of the training classes."""

    parallel = True

    def __init__(self, index: Index, labels: Tensor, options: FolderOptions) -> None:
        self._index, self.labels, self._options = index, labels, options
        size = options.decoded_size or options.image_size
        self.shape = (size, size)
        self._reported: set[int] = set()

    def __len__(self) -> int:
        return len(self._index)

    def decode(self, samples: Tensor, moment: Moment, into: Tensor | None = None) -> Decoded:
        """Decode, cut and resize; what can't be decoded is refused or replaced by the next that can."""
        if into is None:
            into = torch.empty(len(samples), *self.shape, 3, dtype=torch.uint8)
        pixels = into.numpy()
        used = samples.clone()
        numbers = None if self._options.decoded_size else crop_numbers(samples, moment)
        for row, sample in enumerate(samples.tolist()):
            mine = None if numbers is None else numbers[row]
            pixels[row], used[row] = self._one(sample, mine)
        return Decoded(into, self.labels[used], used)

    def _one(self, sample: int, numbers: list[int] | None) -> tuple[pictures.Pixels, int]:
        def choose(height: int, width: int) -> Box:
            return _square(height, width) if self._options.decoded_size else crop_box(height, width, numbers)

        for step in range(len(self)):
            candidate = (sample + step) % len(self)
            try:
                content = self._index.read(candidate)
                draft = self._options.decode == "draft"
                return pictures.decode(content, choose, self.shape[0], draft=draft), candidate
            except pictures.CorruptImageError as error:
                self._report(candidate, error)
        raise input_error("not one image can be decoded", place=Place(str(self._index.root)))

    def _report(self, sample: int, error: pictures.CorruptImageError) -> None:
        where = self._index.describe(sample)
        if self._options.corrupt == "stop":
            raise input_error(
                f"this image can't be decoded ({error})",
                place=Place(where),
                hint="Get it anew, remove it, or say dataset_options: {corrupt: replace}",
            ) from error
        if sample not in self._reported:
            self._reported.add(sample)
            print(f"{where}: can't be decoded ({error}): the next image stands in for it", file=sys.stderr)


def _square(height: int, width: int) -> Box:
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def load(*, context: Context, options: FolderOptions, **_: Any) -> ImageDataset:
    """Return the data set that the run names; raises InputError naming what is in the way."""
    spec, root = context.spec, context.root()
    skip = options.corrupt == "replace"
    indexes = {
        part: layout.open_part(spec.dataset, root, folder, skip_strangers=skip)
        for part, folder in FOLDER_OF.items()
    }
    classes = indexes[TRAIN].classes
    parts = {part: Pictures(index, _labels(index, classes), options) for part, index in indexes.items()}
    size = options.decoded_size
    augmentation: Augmentation = ResizedCropAndFlip(options.image_size) if size else Flip()
    recipe = Recipe(
        classes=len(classes),
        cacheable=size is not None,
        key=_key(indexes, options),
        augmentation=augmentation,
        normalise=Normalise(MEAN, DEVIATION, context.dtype, spec.channels_last),
    )
    return assemble(recipe, {part: (each, each.labels) for part, each in parts.items()}, context)


def _labels(index: Index, classes: tuple[str, ...]) -> Tensor:
    """Return the labels of an index as places in the training classes."""
    unknown = [name for name in index.classes if name not in set(classes)]
    if unknown:
        raise _no_such_class(index, unknown[0])
    places = {name: place for place, name in enumerate(classes)}
    table = np.asarray([places[name] for name in index.classes], np.int64)
    return torch.from_numpy(table[index.labels])


def _no_such_class(index: Index, name: str) -> InputError:
    return input_error(
        "this class of the validation images has no training images",
        place=Place(str(index.root / FOLDER_OF[EVALUATION] / name)),
        hint="Both parts need the same class folders",
    )


def _key(indexes: dict[str, Index], options: FolderOptions) -> str:
    """Digest what decoded pixels depend on; images that are changed in place escape it (docs/data.md)."""
    decoder = pictures.describe_decoder(draft=options.decode == "draft")
    facts = [options.decoded_size, options.decode, options.corrupt, decoder]
    facts += [part for each in indexes.values() for part in (str(each.root.absolute()), each.digest)]
    return hashlib.sha256(repr(facts).encode()).hexdigest()
