"""Decoded images in one file: written once, complete or not at all, checked, and mapped. No torch.

Layout: a page of JSON, which image each one really is (int64), a checksum of each (crc32), pixels from a page
boundary on. The same file is the cache in memory (on a file system in memory) and the one on disk.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import shutil
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from hpcbench.errors import InputError, Place, input_error

FORMAT = "hpcbench decoded images 1"
PAGE = mmap.PAGESIZE
CHANNELS = 3


class OutOfSpaceError(RuntimeError):
    """The decoded images do not fit; the message has the size that was asked for."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What the file holds; `key` is a digest of all that the pixels depend on."""

    format: str = FORMAT
    key: str
    samples: int
    height: int
    width: int
    index_crc: int = 0

    @property
    def image_bytes(self) -> int:
        """Bytes of one image."""
        return self.height * self.width * CHANNELS

    @property
    def first_pixel(self) -> int:
        """Where the pixels begin."""
        return PAGE + -(-self.samples * 12 // PAGE) * PAGE

    @property
    def file_bytes(self) -> int:
        """Length of the file."""
        return self.first_pixel + self.samples * self.image_bytes


Block = tuple[NDArray[np.uint8], NDArray[np.int64]]  # images [n, height, width, 3], and which they really are


class DecodedImages:
    """The open file. `used[i]` differs from i where a corrupt image was replaced."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path, self.header = path, header
        shape = (header.samples, header.height, header.width, CHANNELS)
        with path.open("rb") as file:
            # Private: nobody who writes by mistake changes the file.
            self._map = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
        mapped = np.frombuffer(self._map, np.uint8)
        self.used = mapped[PAGE:].view(np.uint8)[: header.samples * 8].view(np.int64)
        self._crc = mapped[PAGE + header.samples * 8 :][: header.samples * 4].view(np.uint32)
        self.pixels = mapped[header.first_pixel :].reshape(shape)
        self._verified = np.zeros(header.samples, bool)

    def fetch(self, samples: Iterable[int]) -> None:
        """Let the system read images from disk, all at the same time, that will be copied next."""
        for sample in samples:
            first = self.header.first_pixel + sample * self.header.image_bytes
            page = first // PAGE * PAGE
            self._map.madvise(mmap.MADV_WILLNEED, page, first + self.header.image_bytes - page)

    def read_into(self, target: NDArray[np.uint8], sample: int) -> None:
        """Copy an image; the first time, hold it against its checksum. Raises InputError."""
        target[...] = self.pixels[sample]
        if not self._verified[sample]:
            if zlib.crc32(target.data) != self._crc[sample]:
                raise damaged(self.path, f"image {sample} is not as it was written")
            self._verified[sample] = True


def write(path: Path, header: Header, blocks: Iterable[Block]) -> None:
    """Write all images, in order; raises OutOfSpaceError, where that can be seen before the first one."""
    _check_space(path, header.file_bytes)
    try:
        with path.open("wb") as file:
            index = _write_pixels(file, header, blocks)
            text = json.dumps(asdict(header) | {"index_crc": zlib.crc32(index)}).encode()
            file.seek(0)
            file.write(text.ljust(PAGE, b"\0") + index)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _too_large(path, header.file_bytes) from error


def _write_pixels(file: BinaryIO, header: Header, blocks: Iterable[Block]) -> bytes:
    used = np.zeros(header.samples, np.int64)
    crc = np.zeros(header.samples, np.uint32)
    row = 0
    file.truncate(header.file_bytes)
    file.seek(header.first_pixel)
    for images, really in blocks:
        used[row : row + len(images)] = really
        for image in images:
            content = image.tobytes()
            crc[row] = zlib.crc32(content)
            file.write(content)
            row += 1
    assert row == header.samples, (row, header.samples)
    return used.tobytes() + crc.tobytes()


def open_images(path: Path, key: str) -> DecodedImages:
    """Open a complete file; raises InputError where it is cut off, damaged or of something else."""
    try:
        with path.open("rb") as file:
            header = Header(**json.loads(file.read(PAGE).rstrip(b"\0")))
            index = file.read(header.samples * 12)
            length = os.fstat(file.fileno()).st_size
    except (ValueError, TypeError) as error:
        raise damaged(path, "no file of decoded images") from error
    if header.format != FORMAT or header.key != key:
        raise damaged(path, "it holds other images")
    if length != header.file_bytes:
        raise damaged(path, f"{length:,} bytes instead of {header.file_bytes:,}")
    if zlib.crc32(index) != header.index_crc:
        raise damaged(path, "its list of images is not as it was written")
    return DecodedImages(path, header)


def damaged(path: Path, problem: str) -> InputError:
    """Return the message for a file that can't be used."""
    return input_error(problem, place=Place(str(path)), hint=f"Delete it, and it is made anew: rm {path}")


def _check_space(path: Path, size: int) -> None:
    if shutil.disk_usage(path.parent).free < size:
        raise _too_large(path, size)


def _too_large(path: Path, size: int) -> OutOfSpaceError:
    free = shutil.disk_usage(path.parent).free
    return OutOfSpaceError(f"decoded images of {size:,} bytes do not fit: {path.parent} has {free:,} free")
