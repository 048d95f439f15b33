"""Processes that decode images in small pieces into shared memory, so that all of them work on the next
batch.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from hpcbench.errors import HpcbenchError
from hpcbench.tasks.image_augmentation import AugmentationSeed

PIECE_SAMPLES = 32  # pictures at most: about a tenth of a second of work
BATCHES_AHEAD = 2
CHANNELS = 3


@dataclass(frozen=True)
class DecodeRequest:
    """Samples of a part at a moment; `samples` is int64 on the host."""

    part: str
    samples: Tensor
    moment: AugmentationSeed


@dataclass(frozen=True)
class DecodedBatch:
    """uint8 [samples, height, width, 3] with labels [samples].

    `used`, on the host, is which image each one really is: another one where it was corrupt.
    """

    pixels: Tensor
    labels: Tensor
    used: Tensor


class ImageDecoder(Protocol):
    """Turns stored images of one part into pixels, all of one `shape` (height, width).

    `parallel`: so slowly that several processes should.
    """

    parallel: bool
    shape: tuple[int, int]

    def __len__(self) -> int:
        """Return the number of images."""

    def decode(self, samples: Tensor, moment: AugmentationSeed, into: Tensor | None = None) -> DecodedBatch:
        """Decode; with a crop that depends on the moment where the recipe cuts before it resizes.

        A parallel decoder puts its pixels `into` what it is given.
        """


@dataclass(frozen=True)
class _WorkPiece:
    """A part of a request, and the place in shared memory where its pixels go.

    Between processes go arrays, not tensors: for each tensor torch would open a file.
    """

    part: str
    samples: NDArray[np.int64]
    moment: AugmentationSeed
    place: int


@dataclass(frozen=True)
class _FinishedPiece:
    """What is in the place of a piece now."""

    labels: NDArray[np.int64]
    used: NDArray[np.int64]


class _PieceDataset(TorchDataset[_FinishedPiece | HpcbenchError]):
    """What the processes do: a piece at a time."""

    def __init__(self, decoders: dict[str, ImageDecoder], places: Tensor) -> None:
        self._decoders, self._places = decoders, places

    def __getitem__(self, piece: _WorkPiece) -> _FinishedPiece | HpcbenchError:
        into = self._places[piece.place, : len(piece.samples)]
        try:
            done = self._decoders[piece.part].decode(torch.from_numpy(piece.samples), piece.moment, into)
        except HpcbenchError as error:
            return error  # raised by the rank: torch would hide its message behind a traceback
        return _FinishedPiece(done.labels.numpy(), done.used.numpy())


class _PieceSampler(Sampler[_WorkPiece]):
    """What the processes are to do next; set before each pass."""

    pieces: Sequence[_WorkPiece] = ()

    def __init__(self) -> None:
        pass

    def __iter__(self) -> Iterator[_WorkPiece]:
        return iter(self.pieces)

    def __len__(self) -> int:
        return len(self.pieces)


class DecodeWorkers:
    """Decodes in processes that live as long as this object, or inline where there are none.

    `pinned` puts the pixels of a batch where a GPU can fetch them by itself.
    """

    def __init__(
        self, decoders: dict[str, ImageDecoder], count: int, largest_batch: int, *, pinned: bool = False
    ) -> None:
        self._decoders, self._pinned = decoders, pinned
        self.count = count
        self._piece = max(1, min(PIECE_SAMPLES, math.ceil(largest_batch / max(1, count))))
        self._order = _PieceSampler()
        self._loader: DataLoader[Any] | None = None
        if not count:
            return
        ahead = max(2, math.ceil(BATCHES_AHEAD * math.ceil(largest_batch / self._piece) / count))
        # The loader hands out `ahead * count` pieces before it wants the first one back; two more are the one
        # that is being copied and the one that was handed out for it.
        height, width = next(iter(decoders.values())).shape
        places = torch.empty(ahead * count + 2, self._piece, height, width, CHANNELS, dtype=torch.uint8)
        self._places = places.share_memory_()
        with _without_worker_warning():
            self._loader = DataLoader(
                _PieceDataset(decoders, self._places),
                batch_size=None,
                sampler=self._order,
                num_workers=count,
                collate_fn=_identity,
                persistent_workers=True,
                prefetch_factor=ahead,
            )

    def stream(self, requests: Sequence[DecodeRequest]) -> Iterator[DecodedBatch]:
        """Return what was asked for, in order; the processes begin at once."""
        if self._loader is None:
            return (
                self._decoders[request.part].decode(request.samples, request.moment) for request in requests
            )
        place = itertools.cycle(range(len(self._places)))
        self._order.pieces = [
            _WorkPiece(request.part, samples.numpy(), request.moment, next(place))
            for request in requests
            for samples in request.samples.split(self._piece)
        ]
        with _without_worker_warning():
            return self._collected(requests, iter(self._loader))

    def _collected(self, requests: Sequence[DecodeRequest], done: Iterator[Any]) -> Iterator[DecodedBatch]:
        place = itertools.cycle(self._places)
        for request in requests:
            shape = (len(request.samples), *self._places.shape[2:])
            pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=self._pinned)
            parts: list[_FinishedPiece] = []
            for target in pixels.split(self._piece):
                part = next(done)
                if isinstance(part, HpcbenchError):
                    try:
                        raise part
                    finally:
                        # An error that a frame of its own traceback holds keeps that frame, and with it the
                        # processes, until the garbage collector finds it: then they end slowly.
                        del part
                target.copy_(next(place)[: len(target)])
                parts.append(part)
            labels, used = (
                torch.from_numpy(np.concatenate([getattr(part, name) for part in parts]))
                for name in ("labels", "used")
            )
            yield DecodedBatch(pixels, labels, used)

    def close(self) -> None:
        """End the processes."""
        self._loader = None


def _without_worker_warning() -> warnings.catch_warnings[None]:
    """Keep torch from advising on the number of workers: the sweep's word or the rank's cores decide."""
    return warnings.catch_warnings(action="ignore", category=UserWarning)


def _identity(item: Any) -> Any:
    return item
