"""A data set of images: decoder, cache, augmentation and normalisation, put together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from hpcbench.config.placement import Placement
from hpcbench.config.spec import RunSpec
from hpcbench.strategies.base import Batch
from hpcbench.training.data.ahead import on_device
from hpcbench.training.data.augment import Augmentation, Moment, Normalise
from hpcbench.training.data.base import Dataset
from hpcbench.training.data.caches import Caches
from hpcbench.training.data.layout import no_root
from hpcbench.training.data.node import Shared
from hpcbench.training.data.stage import stage
from hpcbench.training.data.workers import Decoded, Decoder, Request, Workers

TRAIN, EVALUATION = "train", "evaluation"
Parts = Mapping[str, tuple[Decoder, Tensor]]  # by part: decoder and the label of each image


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is done to images: the same for every strategy, number of ranks and cache.

    `cacheable`: decoded images are the same in each epoch, since the crop is not taken while decoding. `key`
    is a digest of all that their pixels depend on, but for the part.
    """

    classes: int
    cacheable: bool
    key: str
    augmentation: Augmentation
    normalise: Normalise


class ImageDataset(Dataset):
    """Images that are decoded on the host or come from a cache, and are augmented on the device."""

    channels = 3
    shuffled = True

    def __init__(
        self, recipe: Recipe, decoders: dict[str, Decoder], caches: Caches, workers: Workers, context: Context
    ) -> None:
        self.classes = recipe.classes
        self.train_samples = len(decoders[TRAIN])
        self.evaluation_samples = len(decoders[EVALUATION])
        self._recipe, self._decoders = recipe, decoders
        self._caches, self._workers = caches, workers
        self.workers = workers.count
        self._device, self._seed = context.device, context.spec.seed
        self._staged = context.staged
        self._replaced = 0

    def train_batch(self, samples: Tensor, epoch: int) -> Batch:
        """Return training samples, augmented for this epoch; decoded here and now."""
        return self._now(Request(TRAIN, samples, Moment(self._seed, epoch)))

    def evaluation_batch(self, samples: Tensor) -> Batch:
        """Return samples of the validation set; decoded here and now."""
        return self._now(Request(EVALUATION, samples, Moment(self._seed, None)))

    def train_batches(self, batches: Sequence[Tensor], epoch: int) -> Iterator[Batch]:
        """Yield many batches, which are prepared ahead."""
        moment = Moment(self._seed, epoch)
        return self._stream([Request(TRAIN, samples, moment) for samples in batches])

    def evaluation_batches(self, batches: Sequence[Tensor]) -> Iterator[Batch]:
        """Yield many batches of the validation set, which are prepared ahead."""
        moment = Moment(self._seed, None)
        return self._stream([Request(EVALUATION, samples, moment) for samples in batches])

    def everyone_is_ready(self) -> None:
        """Every rank has mapped what the ranks of a node share: nothing of it needs a name any more."""
        self._caches.forget()

    def take_replaced(self) -> int:
        """Return how many corrupt images were replaced in the batches since the last call."""
        replaced, self._replaced = self._replaced, 0
        return replaced

    def close(self) -> None:
        """End the workers and leave nothing behind."""
        self._workers.close()
        self._caches.close()
        for each in self._staged:
            each.release()

    def _now(self, request: Request) -> Batch:
        decoded = self._decoders[request.part].decode(request.samples, request.moment)
        return self._finished(request, decoded.pixels.to(self._device), decoded.labels.to(self._device))

    def _stream(self, requests: Sequence[Request]) -> Iterator[Batch]:
        decoded = zip(requests, self._workers.stream(requests), strict=True)
        for (request, done), (pixels, labels) in on_device(decoded, self._device, _tensors_of):
            self._replaced += int((done.used != request.samples).sum())
            yield self._finished(request, pixels, labels)

    def _finished(self, request: Request, pixels: Tensor, labels: Tensor) -> Batch:
        images = self._recipe.augmentation(pixels, request.samples, request.moment)
        return Batch(self._recipe.normalise(images), labels)


def _tensors_of(pair: tuple[Request, Decoded]) -> list[Tensor]:
    return [pair[1].pixels, pair[1].labels]


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a data set is loaded for."""

    spec: RunSpec
    placement: Placement
    device: torch.device
    dtype: torch.dtype
    staged: list[Shared] = field(default_factory=list)  # copies of the data set that this rank uses

    def root(self) -> Path:
        """Return the data set's folder, on this node's own disk if the run says so.

        Raises InputError where nobody has said which, and where it can't be copied.
        """
        said, target = self.placement.data, self.spec.input.stage
        if said is None:
            raise no_root(self.spec.dataset)
        if target is None:
            return Path(said)
        self.staged.append(stage(Path(said), Path(target)))
        return self.staged[0].path

    @property
    def workers(self) -> int:
        """Processes of this rank that decode: as the run says, else from the cores that the rank has.

        Beside a GPU one core is left to the training loop; on a CPU the model needs half of them. 0: the rank
        decodes itself.
        """
        said = self.spec.input.workers
        if said is not None:
            return said
        threads = self.placement.threads
        return max(1, threads - 1) if self.device.type == "cuda" else threads // 2


def assemble(recipe: Recipe, parts: Parts, context: Context) -> ImageDataset:
    """Put the run's cache between decoders and augmentation."""
    caches = Caches(context.placement, context.device)
    decoders = {
        part: _cached(decoder, labels, part, recipe, caches, context.spec)
        for part, (decoder, labels) in parts.items()
    }
    parallel = any(decoder.parallel for decoder in decoders.values())
    pinned = context.device.type == "cuda"
    count = context.workers if parallel else 0
    workers = Workers(decoders, count, context.spec.batch_size, pinned=pinned)
    return ImageDataset(recipe, decoders, caches, workers, context)


def _cached(
    decoder: Decoder, labels: Tensor, part: str, recipe: Recipe, caches: Caches, spec: RunSpec
) -> Decoder:
    if not recipe.cacheable:
        return decoder
    if spec.input.disk_cache:
        decoder = caches.on_disk(decoder, labels, part, recipe.key)
    if spec.cache == "memory":
        return caches.in_memory(decoder, labels, part)
    return caches.on_device(decoder, labels, part) if spec.cache == "device" else decoder
