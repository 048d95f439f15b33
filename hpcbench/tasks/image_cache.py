"""Caches of decoded images: a checked file, on disk or in memory shared by the ranks of a node, or a
tensor on the device.
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpcbench.errors import InputError, SourcePlace, input_error
from hpcbench.runs.placement import Placement
from hpcbench.tasks.decode_workers import CHANNELS, DecodedBatch, DecodeRequest, DecodeWorkers, ImageDecoder
from hpcbench.tasks.image_augmentation import AugmentationSeed
from hpcbench.tasks.image_index import cache_folder
from hpcbench.tasks.shared_folders import SharedPath, remove_stale, share_path

IMAGE_FILE_FORMAT = "hpcbench decoded images 1"
PAGE_BYTES = mmap.PAGESIZE


class OutOfSpaceError(RuntimeError):
    """The decoded images do not fit; the message has the size that was asked for."""


@dataclass(frozen=True, kw_only=True)
class ImageFileHeader:
    """What the file holds; `key` is a digest of all that the pixels depend on."""

    format: str = IMAGE_FILE_FORMAT
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
        return PAGE_BYTES + -(-self.samples * 12 // PAGE_BYTES) * PAGE_BYTES

    @property
    def file_bytes(self) -> int:
        """Length of the file."""
        return self.first_pixel + self.samples * self.image_bytes


DecodedBlock = tuple[
    NDArray[np.uint8], NDArray[np.int64]
]  # images [n, height, width, 3], and which they really are


class DecodedImageFile:
    """The open file. `used[i]` differs from i where a corrupt image was replaced."""

    def __init__(self, path: Path, header: ImageFileHeader) -> None:
        self.path, self.header = path, header
        shape = (header.samples, header.height, header.width, CHANNELS)
        with path.open("rb") as file:
            # Private: a write by mistake does not change the file.
            self._map = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
        mapped = np.frombuffer(self._map, np.uint8)
        self.used = mapped[PAGE_BYTES:].view(np.uint8)[: header.samples * 8].view(np.int64)
        self._crc = mapped[PAGE_BYTES + header.samples * 8 :][: header.samples * 4].view(np.uint32)
        self.pixels = mapped[header.first_pixel :].reshape(shape)
        self._verified = np.zeros(header.samples, bool)

    def fetch(self, samples: Iterable[int]) -> None:
        """Let the system read images from disk, all at the same time, that will be copied next."""
        for sample in samples:
            first = self.header.first_pixel + sample * self.header.image_bytes
            page = first // PAGE_BYTES * PAGE_BYTES
            self._map.madvise(mmap.MADV_WILLNEED, page, first + self.header.image_bytes - page)

    def read_into(self, target: NDArray[np.uint8], sample: int) -> None:
        """Copy an image; the first time, hold it against its checksum. Raises InputError."""
        target[...] = self.pixels[sample]
        if not self._verified[sample]:
            if zlib.crc32(target.data) != self._crc[sample]:
                raise damaged_file_error(self.path, f"image {sample} is not as it was written")
            self._verified[sample] = True


def write_images(path: Path, header: ImageFileHeader, blocks: Iterable[DecodedBlock]) -> None:
    """Write all images, in order; raises OutOfSpaceError, where that can be seen before the first one."""
    _check_space(path, header.file_bytes)
    try:
        with path.open("wb") as file:
            index = _write_pixels(file, header, blocks)
            text = json.dumps(asdict(header) | {"index_crc": zlib.crc32(index)}).encode()
            file.seek(0)
            file.write(text.ljust(PAGE_BYTES, b"\0") + index)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _out_of_space_error(path, header.file_bytes) from error


def _write_pixels(file: BinaryIO, header: ImageFileHeader, blocks: Iterable[DecodedBlock]) -> bytes:
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


def open_images(path: Path, key: str) -> DecodedImageFile:
    """Open a complete file; raises InputError where it is cut off, damaged or of something else."""
    try:
        with path.open("rb") as file:
            header = ImageFileHeader(**json.loads(file.read(PAGE_BYTES).rstrip(b"\0")))
            index = file.read(header.samples * 12)
            length = os.fstat(file.fileno()).st_size
    except (ValueError, TypeError) as error:
        raise damaged_file_error(path, "no file of decoded images") from error
    if header.format != IMAGE_FILE_FORMAT or header.key != key:
        raise damaged_file_error(path, "it holds other images")
    if length != header.file_bytes:
        raise damaged_file_error(path, f"{length:,} bytes instead of {header.file_bytes:,}")
    if zlib.crc32(index) != header.index_crc:
        raise damaged_file_error(path, "its list of images is not as it was written")
    return DecodedImageFile(path, header)


def damaged_file_error(path: Path, problem: str) -> InputError:
    """Return the message for a file that can't be used."""
    return input_error(
        problem, place=SourcePlace(str(path)), hint=f"Delete it, and it is made anew: rm {path}"
    )


def _check_space(path: Path, size: int) -> None:
    if shutil.disk_usage(path.parent).free < size:
        raise _out_of_space_error(path, size)


def _out_of_space_error(path: Path, size: int) -> OutOfSpaceError:
    free = shutil.disk_usage(path.parent).free
    return OutOfSpaceError(f"decoded images of {size:,} bytes do not fit: {path.parent} has {free:,} free")


IMAGES_PER_BLOCK = 256  # images that are decoded at a time while a cache is filled
EVALUATION_SEED = AugmentationSeed(seed=0, epoch=None)  # what is cached depends on none


class FileCache:
    """Decoded images in a file, copied out of it for each batch."""

    parallel = False  # copying costs less than handing over

    def __init__(self, images: DecodedImageFile, labels: Tensor) -> None:
        self._images, self._labels = images, labels
        self.shape = (images.header.height, images.header.width)

    def __len__(self) -> int:
        return len(self._images.used)

    def decode(self, samples: Tensor, moment: AugmentationSeed, into: Tensor | None = None) -> DecodedBatch:
        """Copy images; each is held against its checksum the first time."""
        pixels = np.empty((len(samples), *self.shape, CHANNELS), np.uint8)
        self._images.fetch(samples.tolist())
        for row, sample in enumerate(samples.tolist()):
            self._images.read_into(pixels[row], sample)
        used = torch.from_numpy(self._images.used[samples.numpy()])
        return DecodedBatch(torch.from_numpy(pixels), self._labels[used], used)


class TensorCache:
    """Decoded images as one tensor: shared by the ranks of a node, or on a rank's own device."""

    parallel = False

    def __init__(self, pixels: Tensor, labels: Tensor, used: Tensor) -> None:
        self._pixels, self._used = pixels, used
        self._labels = labels[used].to(pixels.device)
        self.shape = (pixels.shape[1], pixels.shape[2])

    def __len__(self) -> int:
        return len(self._used)

    @property
    def device(self) -> torch.device:
        """Where the pixels are."""
        return self._pixels.device

    def decode(self, samples: Tensor, moment: AugmentationSeed, into: Tensor | None = None) -> DecodedBatch:
        """Take rows."""
        rows = samples.to(self.device, non_blocking=True)
        return DecodedBatch(self._pixels.index_select(0, rows), self._labels[rows], self._used[samples])


def shared_memory_folder() -> Path:
    """Return a folder whose files are in memory, the machine's temporary one where there is none."""
    folder = Path("/dev/shm")
    return folder if folder.is_dir() else Path(tempfile.gettempdir())


def _prefix() -> str:
    return f"hpcbench-{os.getuid()}-"


class ImageCaches:
    """Makes the caches of a run, and takes away what they have left."""

    def __init__(self, placement: Placement, device: torch.device) -> None:
        self._placement, self._device = placement, device
        self._shared: list[SharedPath] = []

    def in_memory(self, decoder: ImageDecoder, labels: Tensor, part: str) -> TensorCache:
        """Decode once per node into memory that its ranks share; raises MemoryError with the size."""
        images = self._build(decoder, part)
        return TensorCache(torch.from_numpy(images.pixels), labels, torch.from_numpy(images.used))

    def on_device(self, decoder: ImageDecoder, labels: Tensor, part: str) -> TensorCache:
        """Decode once per node, then copy to this rank's device; on a CPU that is memory of its own."""
        images = self._build(decoder, part)
        pixels = torch.from_numpy(images.pixels)
        copy = pixels.clone() if self._device.type == "cpu" else pixels.to(self._device)
        return TensorCache(copy, labels, torch.from_numpy(images.used.copy()))

    def on_disk(self, decoder: ImageDecoder, labels: Tensor, part: str, key: str) -> FileCache:
        """Decode once for all runs, into the cache folder; raises InputError where there is no room."""
        path = cache_folder() / "decoded" / f"{part}-{decoder.shape[0]}-{key[:24]}.images"
        header = _image_file_header(decoder, key)
        try:
            shared = share_path(path, lambda target: _decode_all(target, header, decoder, part), keep=True)
        except (OutOfSpaceError, PermissionError) as error:
            hint = "Set HPCBENCH_CACHE to a folder with room, or say input: {disk_cache: false}"
            raise input_error(str(error), hint=hint) from error
        self._shared.append(shared)
        return FileCache(open_images(path, key), labels)

    def _build(self, decoder: ImageDecoder, part: str) -> DecodedImageFile:
        place, folder = self._placement, shared_memory_folder()
        remove_stale(folder, _prefix())
        text = f"{place.run_folder}\0{place.attempt}\0{place.node}\0{part}"
        key = hashlib.sha256(text.encode()).hexdigest()
        header = _image_file_header(decoder, key)
        path = folder / f"{_prefix()}{key[:24]}"
        try:
            self._shared.append(share_path(path, lambda target: _decode_all(target, header, decoder, part)))
        except OutOfSpaceError as error:
            raise MemoryError(f"cache in memory: {error}") from error
        return open_images(path, key)

    def unlink_shared(self) -> None:
        """Remove the names of what is in memory, once every rank of the node has it mapped."""
        for shared in self._shared:
            shared.unlink_shared()

    def close(self) -> None:
        """Leave nothing behind."""
        for shared in self._shared:
            shared.release()


def _image_file_header(decoder: ImageDecoder, key: str) -> ImageFileHeader:
    height, width = decoder.shape
    return ImageFileHeader(key=key, samples=len(decoder), height=height, width=width)


def _decode_all(path: Path, header: ImageFileHeader, decoder: ImageDecoder, part: str) -> None:
    """Decode everything with all cores that this process may use: the other ranks wait for it."""
    cores = len(os.sched_getaffinity(0))
    alone = cores == 1 or not decoder.parallel or header.samples <= IMAGES_PER_BLOCK
    workers = DecodeWorkers({part: decoder}, 0 if alone else cores, IMAGES_PER_BLOCK)
    requests = [
        DecodeRequest(part, samples, EVALUATION_SEED)
        for samples in torch.arange(header.samples).split(IMAGES_PER_BLOCK)
    ]

    def blocks() -> Iterator[DecodedBlock]:
        for done in workers.stream(requests):
            yield done.pixels.numpy(), done.used.numpy()

    try:
        write_images(path, header, blocks())
    finally:
        workers.close()
