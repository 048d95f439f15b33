"""CIFAR-10, CIFAR-100, ImageNet and folders of class folders as training data sets: decoding, augmentation
and normalisation of each.
"""

from __future__ import annotations

import hashlib
import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpcbench.errors import InputError, SourcePlace, input_error
from hpcbench.tasks import cifar_files, image_layouts, picture_decoding
from hpcbench.tasks.decode_workers import DecodedBatch
from hpcbench.tasks.image_augmentation import (
    Augmentation,
    AugmentationSeed,
    CropAndFlip,
    Flip,
    NormaliseImages,
    ResizedCropAndFlip,
    crop_box,
    crop_numbers,
)
from hpcbench.tasks.image_index import ImageIndex
from hpcbench.tasks.image_pipeline import DataContext, ImageDataset, ImageRecipe, assemble_image_dataset
from hpcbench.tasks.task_registry import EVALUATION, TRAIN, FolderOptions

CIFAR_PADDING = 4


class CifarDecoder:
    """One part, as it was read: rows are turned into images for each batch."""

    def __init__(self, part: cifar_files.CifarPart) -> None:
        self._part = part
        self.labels = torch.from_numpy(part.labels)
        self.parallel = False  # reordering bytes costs less than handing them to another process
        self.shape = (cifar_files.CIFAR_SIDE, cifar_files.CIFAR_SIDE)

    def __len__(self) -> int:
        return len(self.labels)

    def decode(self, samples: Tensor, moment: AugmentationSeed, into: Tensor | None = None) -> DecodedBatch:
        """Return images as they are, before augmentation."""
        pixels = self._part.decode(samples.numpy())
        return DecodedBatch(torch.from_numpy(pixels), self.labels[samples], samples)


def load_cifar_dataset(*, context: DataContext, **_: Any) -> ImageDataset:
    """Return the data set that the run names; raises InputError naming the file that is in the way."""
    spec = context.spec
    root = context.root()
    edition = cifar_files.CIFAR_EDITIONS[spec.dataset]
    parts = {
        part: CifarDecoder(cifar_files.read_cifar(spec.dataset, root, files))
        for part, files in cifar_files.CIFAR_PARTS.items()
    }
    recipe = ImageRecipe(
        classes=edition.classes,
        cacheable=True,
        key=spec.dataset,
        augmentation=CropAndFlip(CIFAR_PADDING),
        normalise=NormaliseImages(edition.mean, edition.deviation, context.dtype, spec.channels_last),
    )
    return assemble_image_dataset(
        recipe, {part: (each, each.labels) for part, each in parts.items()}, context
    )


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # for all folders of images


class PictureDecoder:
    """Encoded pictures of one part; `labels` are those of the training classes."""

    parallel = True

    def __init__(self, index: ImageIndex, labels: Tensor, options: FolderOptions) -> None:
        self._index, self.labels, self._options = index, labels, options
        size = options.decoded_size or options.image_size
        self.shape = (size, size)
        self._reported: set[int] = set()

    def __len__(self) -> int:
        return len(self._index)

    def decode(self, samples: Tensor, moment: AugmentationSeed, into: Tensor | None = None) -> DecodedBatch:
        """Decode, cut and resize; what can't be decoded is refused or replaced by the next that can."""
        if into is None:
            into = torch.empty(len(samples), *self.shape, 3, dtype=torch.uint8)
        pixels = into.numpy()
        used = samples.clone()
        numbers = None if self._options.decoded_size else crop_numbers(samples, moment)
        for row, sample in enumerate(samples.tolist()):
            crop = None if numbers is None else numbers[row]
            pixels[row], used[row] = self._decode_one(sample, crop)
        return DecodedBatch(into, self.labels[used], used)

    def _decode_one(self, sample: int, numbers: list[int] | None) -> tuple[picture_decoding.Pixels, int]:
        def choose(height: int, width: int) -> picture_decoding.CropBox:
            return _square(height, width) if self._options.decoded_size else crop_box(height, width, numbers)

        for step in range(len(self)):
            candidate = (sample + step) % len(self)
            try:
                content = self._index.read(candidate)
                draft = self._options.decode == "draft"
                return picture_decoding.decode_picture(content, choose, self.shape[0], draft=draft), candidate
            except picture_decoding.CorruptImageError as error:
                self._report(candidate, error)
        raise input_error("not one image can be decoded", place=SourcePlace(str(self._index.root)))

    def _report(self, sample: int, error: picture_decoding.CorruptImageError) -> None:
        where = self._index.describe(sample)
        if self._options.corrupt == "stop":
            raise input_error(
                f"this image can't be decoded ({error})",
                place=SourcePlace(where),
                hint="Get it anew, remove it, or say dataset_options: {corrupt: replace}",
            ) from error
        if sample not in self._reported:
            self._reported.add(sample)
            print(f"{where}: can't be decoded ({error}): the next image stands in for it", file=sys.stderr)


def _square(height: int, width: int) -> picture_decoding.CropBox:
    side = min(height, width)
    return picture_decoding.CropBox((height - side) // 2, (width - side) // 2, side, side)


def load_folder_dataset(*, context: DataContext, options: FolderOptions, **_: Any) -> ImageDataset:
    """Return the data set that the run names; raises InputError naming what is in the way."""
    spec, root = context.spec, context.root()
    skip = options.corrupt == "replace"
    indexes = {
        part: image_layouts.open_image_part(spec.dataset, root, folder, skip_non_images=skip)
        for part, folder in image_layouts.FOLDER_PARTS.items()
    }
    classes = indexes[TRAIN].classes
    parts = {
        part: PictureDecoder(index, _training_labels(index, classes), options)
        for part, index in indexes.items()
    }
    size = options.decoded_size
    augmentation: Augmentation = ResizedCropAndFlip(options.image_size) if size else Flip()
    recipe = ImageRecipe(
        classes=len(classes),
        cacheable=size is not None,
        key=_pixel_digest(indexes, options),
        augmentation=augmentation,
        normalise=NormaliseImages(IMAGENET_MEAN, IMAGENET_STD, context.dtype, spec.channels_last),
    )
    return assemble_image_dataset(
        recipe, {part: (each, each.labels) for part, each in parts.items()}, context
    )


def _training_labels(index: ImageIndex, classes: tuple[str, ...]) -> Tensor:
    """Return the labels of an index as places in the training classes."""
    unknown = [name for name in index.classes if name not in set(classes)]
    if unknown:
        raise _unknown_class_error(index, unknown[0])
    places = {name: place for place, name in enumerate(classes)}
    table = np.asarray([places[name] for name in index.classes], np.int64)
    return torch.from_numpy(table[index.labels])


def _unknown_class_error(index: ImageIndex, name: str) -> InputError:
    return input_error(
        "this class of the validation images has no training images",
        place=SourcePlace(str(index.root / image_layouts.FOLDER_PARTS[EVALUATION] / name)),
        hint="Both parts need the same class folders",
    )


def _pixel_digest(indexes: dict[str, ImageIndex], options: FolderOptions) -> str:
    """Digest what decoded pixels depend on; images that are changed in place escape it (docs/data.md)."""
    decoder = picture_decoding.describe_decoder(draft=options.decode == "draft")
    facts = [options.decoded_size, options.decode, options.corrupt, decoder]
    facts += [part for index in indexes.values() for part in (str(index.root.absolute()), index.digest)]
    return hashlib.sha256(repr(facts).encode()).hexdigest()
