"""Where pixels are between decoding and augmentation. All of these give the same pixels, at other speeds."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hpcbench.config.placement import Placement
from hpcbench.errors import input_error
from hpcbench.training.data import store
from hpcbench.training.data.augment import Moment
from hpcbench.training.data.index import cache_folder
from hpcbench.training.data.node import Shared, share, sweep
from hpcbench.training.data.workers import Decoded, Decoder, Request, Workers

BLOCK = 256  # images that are decoded at a time while a cache is filled
NO_MOMENT = Moment(seed=0, epoch=None)  # what is cached depends on none


class InFile:
    """Decoded images in a file, copied out of it for each batch."""

    parallel = False  # copying costs less than handing over

    def __init__(self, images: store.DecodedImages, labels: Tensor) -> None:
        self._images, self._labels = images, labels
        self.shape = (images.header.height, images.header.width)

    def __len__(self) -> int:
        return len(self._images.used)

    def decode(self, samples: Tensor, moment: Moment, into: Tensor | None = None) -> Decoded:
        """Copy images; each is held against its checksum the first time."""
        pixels = np.empty((len(samples), *self.shape, store.CHANNELS), np.uint8)
        self._images.fetch(samples.tolist())
        for row, sample in enumerate(samples.tolist()):
            self._images.read_into(pixels[row], sample)
        used = torch.from_numpy(self._images.used[samples.numpy()])
        return Decoded(torch.from_numpy(pixels), self._labels[used], used)


class InMemory:
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

    def decode(self, samples: Tensor, moment: Moment, into: Tensor | None = None) -> Decoded:
        """Take rows."""
        rows = samples.to(self.device, non_blocking=True)
        return Decoded(self._pixels.index_select(0, rows), self._labels[rows], self._used[samples])


def shared_memory() -> Path:
    """Return a folder whose files are in memory, the machine's temporary one where there is none."""
    folder = Path("/dev/shm")
    return folder if folder.is_dir() else Path(tempfile.gettempdir())


def _prefix() -> str:
    return f"hpcbench-{os.getuid()}-"


class Caches:
    """Makes the caches of a run, and takes away what they have left."""

    def __init__(self, placement: Placement, device: torch.device) -> None:
        self._placement, self._device = placement, device
        self._shared: list[Shared] = []

    def in_memory(self, decoder: Decoder, labels: Tensor, part: str) -> InMemory:
        """Decode once per node into memory that its ranks share; raises MemoryError with the size."""
        images = self._build(decoder, part)
        return InMemory(torch.from_numpy(images.pixels), labels, torch.from_numpy(images.used))

    def on_device(self, decoder: Decoder, labels: Tensor, part: str) -> InMemory:
        """Decode once per node, then copy to this rank's device; on a CPU that is memory of its own."""
        images = self._build(decoder, part)
        pixels = torch.from_numpy(images.pixels)
        copy = pixels.clone() if self._device.type == "cpu" else pixels.to(self._device)
        return InMemory(copy, labels, torch.from_numpy(images.used.copy()))

    def on_disk(self, decoder: Decoder, labels: Tensor, part: str, key: str) -> InFile:
        """Decode once for all runs, into the cache folder; raises InputError where there is no room."""
        path = cache_folder() / "decoded" / f"{part}-{decoder.shape[0]}-{key[:24]}.images"
        header = _header(decoder, key)
        try:
            shared = share(path, lambda target: _fill(target, header, decoder, part), keep=True)
        except (store.OutOfSpaceError, PermissionError) as error:
            hint = "Set HPCBENCH_CACHE to a folder with room, or say input: {disk_cache: false}"
            raise input_error(str(error), hint=hint) from error
        self._shared.append(shared)
        return InFile(store.open_images(path, key), labels)

    def _build(self, decoder: Decoder, part: str) -> store.DecodedImages:
        place, folder = self._placement, shared_memory()
        sweep(folder, _prefix())
        text = f"{place.run_folder}\0{place.attempt}\0{place.node}\0{part}"
        key = hashlib.sha256(text.encode()).hexdigest()
        header = _header(decoder, key)
        path = folder / f"{_prefix()}{key[:24]}"
        try:
            self._shared.append(share(path, lambda target: _fill(target, header, decoder, part)))
        except store.OutOfSpaceError as error:
            raise MemoryError(f"cache in memory: {error}") from error
        return store.open_images(path, key)

    def forget(self) -> None:
        """Remove the names of what is in memory, once every rank of the node has it mapped."""
        for each in self._shared:
            each.forget()

    def close(self) -> None:
        """Leave nothing behind."""
        for each in self._shared:
            each.release()


def _header(decoder: Decoder, key: str) -> store.Header:
    height, width = decoder.shape
    return store.Header(key=key, samples=len(decoder), height=height, width=width)


def _fill(path: Path, header: store.Header, decoder: Decoder, part: str) -> None:
    """Decode everything with all cores that this process may use: the other ranks wait for it."""
    cores = len(os.sched_getaffinity(0))
    alone = cores == 1 or not decoder.parallel or header.samples <= BLOCK
    workers = Workers({part: decoder}, 0 if alone else cores, BLOCK)
    requests = [Request(part, samples, NO_MOMENT) for samples in torch.arange(header.samples).split(BLOCK)]

    def blocks() -> Iterator[store.Block]:
        for done in workers.stream(requests):
            yield done.pixels.numpy(), done.used.numpy()

    try:
        store.write(path, header, blocks())
    finally:
        workers.close()
