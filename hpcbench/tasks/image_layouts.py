"""The files of image data sets: folders of classes, and ImageNet's tar files as distributed.

Imports no torch.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from hpcbench.errors import InputError, SourcePlace, input_error
from hpcbench.tasks.image_index import ImageIndex, ImageListing, load_index, unreadable_error
from hpcbench.tasks.shared_folders import mark_generated
from hpcbench.tasks.smoke_data import SMOKE_SEED, crop_photograph, photographs
from hpcbench.tasks.task_registry import EVALUATION, TRAIN

FOLDER_PARTS = {TRAIN: "train", EVALUATION: "val"}  # as folders and tars call them

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
TARS = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
DEVKIT_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
DEVKIT_META = "data/meta.mat"
IMAGENET_MD5 = {
    TARS["train"]: "1d675b47d978889d74fa0da5fadfb00e",
    TARS["val"]: "29b22e2961454d5413ddabcf34fc5622",
    DEVKIT: "fa75699e90414af021442c21a62c3abf",
}
GENERATED_CLASSES = 8
GENERATED_SIDES = (90, 160)
JPEG_QUALITY = 90


class ImageFiles:
    """Folders of class folders, and ImageNet as distributed (a `task_registry.DatasetFiles`)."""

    def __init__(self, name: str) -> None:
        self._name = name

    def inspect(
        self, folder: Path, part: str, *, decode: bool = False, skip_non_images: bool = False
    ) -> tuple[int, list[str]]:
        """Scan a part, or open the index of an earlier scan."""
        index = open_image_part(self._name, folder, FOLDER_PARTS[part], skip_non_images=skip_non_images)
        return len(index), _find_undecodable(index) if decode else []

    def download_commands(self, target: str) -> list[str]:
        """Return the commands; ImageNet needs a login."""
        if self._name != "imagenet":
            return [
                f"# {target}/train/CLASS/IMAGE and {target}/val/CLASS/IMAGE: any pictures that Pillow reads"
            ]
        return [
            "# sign in at https://image-net.org/download-images, ILSVRC 2012, and fetch three files:",
            *(f'echo "{md5}  {file}" | md5sum -c' for file, md5 in IMAGENET_MD5.items()),
            "# if that is another machine: rsync --partial --progress ILSVRC2012_* CLUSTER:",
            f"mkdir -p {target} && mv ILSVRC2012_* {target}/   # read as they are: nothing is unpacked",
        ]

    def generate(self, folder: Path, train_samples: int, evaluation_samples: int) -> None:
        """Write parts of photographs as JPEGs in class folders."""
        generator, sources = np.random.default_rng(SMOKE_SEED), photographs()
        for part, samples in (("train", train_samples), ("val", evaluation_samples)):
            for sample in range(samples):
                label = sample % GENERATED_CLASSES
                width, height = (int(side) for side in generator.integers(*GENERATED_SIDES, size=2))
                path = folder / part / f"n{label:08d}" / f"{part}_{sample:06d}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture = crop_photograph(sources, generator, label, GENERATED_CLASSES, (width, height))
                picture.save(path, quality=JPEG_QUALITY)
        mark_generated(folder, {"train": train_samples, "test": evaluation_samples})


def _find_undecodable(index: ImageIndex) -> list[str]:
    """Try every picture, with all cores."""
    from PIL import Image

    def attempt(sample: int) -> str | None:
        try:
            Image.open(io.BytesIO(index.read(sample))).convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            return f"{index.describe(sample)}: can't be decoded ({error})"
        return None

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # Pillow decodes without Python's lock
        return [problem for problem in pool.map(attempt, range(len(index))) if problem]


def open_image_part(name: str, root: Path, part: str, *, skip_non_images: bool) -> ImageIndex:
    """Return the index of "train" or "val"; raises InputError naming the file or folder that is in the way.

    `skip_non_images` leaves out files that are no images and folders without any, instead of refusing them.
    """
    variant = f"{name}-{'skip' if skip_non_images else 'strict'}"
    try:
        if (root / part).is_dir():
            return load_index(root, part, variant, lambda: _scan_folders(root, part, skip_non_images))
        tar = root / TARS[part]
        if name == "imagenet" and tar.is_file():
            scan = _scan_train_tar if part == "train" else _scan_val_tar
            return load_index(root, part, f"{variant}-tar", lambda: scan(root))
    except OSError as error:
        raise unreadable_error(root, error) from error
    raise missing_images_error(name, root, part)


def missing_images_error(name: str, root: Path, part: str) -> InputError:
    """Return the message for a data set that is not there."""
    tars = f", or {TARS[part]}" if name == "imagenet" else ""
    return input_error(
        f"the {part} images of {name} are not here",
        place=SourcePlace(str(root)),
        allowed=f"{part}/<class>/<image>{tars}",
        hint=f"`hpcbench data check {name}` says how to get them",
    )


@dataclass
class _ListingBuilder:
    """A listing that grows."""

    files: list[str] = field(default_factory=list)
    file: list[int] = field(default_factory=list)
    offset: list[int] = field(default_factory=list)
    size: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    watched: dict[str, int] = field(default_factory=dict)

    def add(self, label: int, *, file: int, offset: int = 0, size: int = -1) -> None:
        self.file.append(file)
        self.offset.append(offset)
        self.size.append(size)
        self.labels.append(label)

    def watch(self, root: Path, name: str) -> None:
        self.watched[name] = (root / name).stat().st_mtime_ns

    def listing(self, classes: Sequence[str]) -> ImageListing:
        return ImageListing(
            files=self.files,
            file=np.asarray(self.file, np.int64),
            offset=np.asarray(self.offset, np.int64),
            size=np.asarray(self.size, np.int64),
            labels=np.asarray(self.labels, np.int64),
            classes=tuple(classes),
            watched=self.watched,
        )


def _scan_folders(root: Path, part: str, skip_non_images: bool) -> ImageListing:
    rows = _ListingBuilder()
    rows.watch(root, part)
    with os.scandir(root / part) as entries:
        classes = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    for label, folder in enumerate(classes):
        relative = f"{part}/{folder}"
        rows.watch(root, relative)
        for name in _images_in(root / relative, skip_non_images):
            rows.add(label, file=len(rows.files))
            rows.files.append(f"{relative}/{name}")
    if not rows.files:
        raise input_error(
            "no class folders with images", place=SourcePlace(str(root / part)), allowed="<class>/<image>"
        )
    return rows.listing(classes)


def _images_in(folder: Path, skip_non_images: bool) -> list[str]:
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.name.lower().endswith(IMAGE_SUFFIXES):
                names.append(entry.name)
            elif not skip_non_images:
                raise input_error(
                    "not an image, and no other file may be among the images",
                    place=SourcePlace(entry.path),
                    hint="Move it away, or say dataset_options: {corrupt: replace}",
                )
    if not names and not skip_non_images:
        raise input_error(
            "this class folder is empty",
            place=SourcePlace(str(folder)),
            hint="Put its images back, remove it, or say dataset_options: {corrupt: replace}",
        )
    return sorted(names)


def _scan_train_tar(root: Path) -> ImageListing:
    """The tar of all classes holds one tar a class; images are read where they lie, nothing is unpacked."""
    rows, tar = _ListingBuilder(), TARS["train"]
    rows.watch(root, tar)
    rows.files.append(tar)
    classes: list[str] = []
    with (root / tar).open("rb") as file:
        for outer in sorted(_members(file, root / tar), key=lambda member: member.name):
            if not outer.name.endswith(".tar"):
                raise _wrong_tar_error(root / tar, "not the tar of class tars", outer.name)
            inside = _FileWindow(file, outer.offset_data, outer.size)
            for image in sorted(
                _members(io.BufferedReader(inside), root / tar), key=lambda member: member.name
            ):
                rows.add(len(classes), file=0, offset=outer.offset_data + image.offset_data, size=image.size)
            classes.append(Path(outer.name).stem)
    return rows.listing(classes)


def _scan_val_tar(root: Path) -> ImageListing:
    """Validation images lie in one tar without classes: those are in the development kit."""
    rows, tar = _ListingBuilder(), TARS["val"]
    rows.watch(root, tar)
    if not (root / DEVKIT).is_file():
        raise input_error(
            "the classes of the validation images are missing",
            place=SourcePlace(str(root / DEVKIT)),
            hint="Put it beside the tars: `hpcbench data check imagenet` says where it comes from",
        )
    rows.watch(root, DEVKIT)
    rows.files.append(tar)
    classes, truth = read_devkit(root / DEVKIT)
    with (root / tar).open("rb") as file:
        images = sorted(_members(file, root / tar), key=lambda member: member.name)
    if len(images) != len(truth):
        raise _wrong_tar_error(
            root / tar, f"{len(images):,} images, and the development kit knows {len(truth):,}"
        )
    for image, label in zip(images, truth, strict=True):
        rows.add(label, file=0, offset=image.offset_data, size=image.size)
    return rows.listing(classes)


def read_devkit(path: Path) -> tuple[list[str], list[int]]:
    """Return the class names in alphabetical order, and the class of each validation image."""
    from scipy.io import loadmat

    try:
        with tarfile.open(path, "r:gz") as kit:
            found = {
                name: file.read()
                for member in kit
                for name in _kit_files(member.name)
                if (file := kit.extractfile(member))
            }
        meta, truth = found[DEVKIT_META], found[DEVKIT_TRUTH]
        synsets: Any = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        leaves = synsets[synsets["num_children"] == 0]
        names = {int(leaf["ILSVRC2012_ID"]): str(leaf["WNID"]) for leaf in leaves}
        ids = [int(line) for line in truth.decode().split()]
        classes = sorted(names.values())
        return classes, [classes.index(names[number]) for number in ids]
    except (tarfile.TarError, EOFError, KeyError, ValueError, AttributeError) as error:
        raise _wrong_tar_error(path, f"not ImageNet's development kit ({error!r})") from error


def _kit_files(member: str) -> list[str]:
    return [name for name in (DEVKIT_META, DEVKIT_TRUTH) if member.endswith(name)]


def _members(file: BinaryIO | io.BufferedReader, path: Path) -> Iterator[tarfile.TarInfo]:
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            yield from (member for member in tar if member.isfile())
    except tarfile.TarError as error:
        raise _wrong_tar_error(path, f"broken or cut off ({error})") from error


def _wrong_tar_error(path: Path, problem: str, found: object = None) -> InputError:
    hint = "Get it anew: `hpcbench data check imagenet` says how"
    return input_error(problem, place=SourcePlace(str(path)), found=found, hint=hint)


class _FileWindow(io.RawIOBase):
    """A part of an open file as a file of its own."""

    def __init__(self, file: BinaryIO, first: int, size: int) -> None:
        self._file, self._first, self._size, self._at = file, first, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._size - self._at))
        content = os.pread(self._file.fileno(), count, self._first + self._at)
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)
