"""Layouts of image data sets on disk: folders of classes, and ImageNet's tar files as distributed.

Imports no torch.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from hpcbench.errors import InputError, SourcePlace, input_error
from hpcbench.tasks.image_index import ImageIndex, ImageListing, load_index, unreadable_error

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
TARS = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
DEVKIT_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
DEVKIT_META = "data/meta.mat"


def open_image_part(name: str, root: Path, part: str, *, skip_strangers: bool) -> ImageIndex:
    """Return the index of "train" or "val"; raises InputError naming the file or folder that is in the way.

    `skip_strangers` leaves out files that are no images and folders without any, instead of refusing them.
    """
    variant = f"{name}-{'skip' if skip_strangers else 'strict'}"
    try:
        if (root / part).is_dir():
            return load_index(root, part, variant, lambda: _scan_folders(root, part, skip_strangers))
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


def no_data_root_error(name: str) -> InputError:
    """Return the message for a data set that nobody has said the place of."""
    return input_error(
        f"nothing says where the data set {name} is",
        hint=f"Say --data DIR, set HPCBENCH_DATA, or write data: {{{name}: DIR}} into the sweep",
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


def _scan_folders(root: Path, part: str, skip_strangers: bool) -> ImageListing:
    rows = _ListingBuilder()
    rows.watch(root, part)
    with os.scandir(root / part) as entries:
        classes = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    for label, folder in enumerate(classes):
        relative = f"{part}/{folder}"
        rows.watch(root, relative)
        for name in _images_in(root / relative, skip_strangers):
            rows.add(label, file=len(rows.files))
            rows.files.append(f"{relative}/{name}")
    if not rows.files:
        raise input_error(
            "no class folders with images", place=SourcePlace(str(root / part)), allowed="<class>/<image>"
        )
    return rows.listing(classes)


def _images_in(folder: Path, skip_strangers: bool) -> list[str]:
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.name.lower().endswith(IMAGE_SUFFIXES):
                names.append(entry.name)
            elif not skip_strangers:
                raise input_error(
                    "not an image, and no other file may be among the images",
                    place=SourcePlace(entry.path),
                    hint="Move it away, or say dataset_options: {corrupt: replace}",
                )
    if not names and not skip_strangers:
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
        for outer in sorted(_members(file, root / tar), key=lambda each: each.name):
            if not outer.name.endswith(".tar"):
                raise _wrong_tar_error(root / tar, "not the tar of class tars", outer.name)
            inside = _FileWindow(file, outer.offset_data, outer.size)
            for image in sorted(_members(io.BufferedReader(inside), root / tar), key=lambda each: each.name):
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
        images = sorted(_members(file, root / tar), key=lambda each: each.name)
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
        return classes, [classes.index(names[each]) for each in ids]
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
