"""From decoder to device for image data sets: cache, decoding processes, asynchronous copies to the
device, augmentation, normalisation.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from hpcbench.runs.placement import Placement
from hpcbench.sweep.run_spec import RunSpec
from hpcbench.tasks.batches import Batch, LabelledDataset
from hpcbench.tasks.data_check import no_data_root_error
from hpcbench.tasks.decode_workers import DecodedBatch, DecodeRequest, DecodeWorkers, ImageDecoder
from hpcbench.tasks.image_augmentation import Augmentation, AugmentationSeed, NormaliseImages
from hpcbench.tasks.image_cache import ImageCaches
from hpcbench.tasks.shared_folders import SharedPath, stage_data
from hpcbench.tasks.task_registry import EVALUATION, TRAIN

Item = TypeVar("Item")
POLL_S = 0.1


class PrefetchIterator(Generic[Item]):
    """Runs an iterator in a thread, up to `depth` items ahead. An error in it is raised where it is used."""

    def __init__(self, items: Iterable[Item], depth: int) -> None:
        self._items = items
        self._queue: queue.Queue[Any] = queue.Queue(depth)
        self._stopped = threading.Event()
        self._end = object()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="hpcbench-input", daemon=True)

    def __iter__(self) -> Iterator[Item]:
        self._thread.start()
        try:
            while (item := self._queue.get()) is not self._end:
                yield item
            if self._error is not None:
                error, self._error = self._error, None
                try:
                    raise error
                finally:
                    del error  # else it would keep this frame, and this frame it, and both the processes
        finally:
            self._stopped.set()
            self._thread.join()

    def _run(self) -> None:
        try:
            for item in self._items:
                if not self._put(item):
                    return
        except BaseException as error:  # noqa: BLE001  whatever it is, the consumer has to see it
            self._error = error
        self._put(self._end)

    def _put(self, item: Any) -> bool:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=POLL_S)
            except queue.Full:
                continue
            return True
        return False


class DeviceCopies:
    """Copies host tensors to a CUDA device on a stream of its own, beside the computation."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def start(self, tensors: Iterable[Tensor]) -> tuple[list[Tensor], Any]:
        """Begin to copy; the result is complete once the event has passed. Pinned memory is needed for that.

        torch's pinned allocator reuses host memory only after the copies out of it are done.
        """
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            copies = [tensor.pin_memory().to(self._device, non_blocking=True) for tensor in tensors]
            event = torch.cuda.Event()
            event.record(self._stream)
        return copies, event

    def finish(self, copies: Iterable[Tensor], event: Any) -> None:
        """Let the current stream wait for the copies, and keep their memory until it has used them."""
        current = torch.cuda.current_stream(self._device)
        current.wait_event(event)
        for copy in copies:
            copy.record_stream(current)


def prefetch_to_device(
    batches: Iterable[Item],
    device: torch.device,
    tensors_of: Callable[[Item], list[Tensor]],
    depth: int = 2,
) -> Iterator[tuple[Item, list[Tensor]]]:
    """Yield each item with its tensors on the device; on a GPU they are fetched and copied ahead."""
    if device.type != "cuda":
        for batch in batches:
            yield batch, tensors_of(batch)
        return
    copies = DeviceCopies(device)

    def started() -> Iterator[tuple[Item, list[Tensor], Any]]:
        for batch in batches:
            yield (batch, *copies.start(tensors_of(batch)))

    for batch, moved, event in PrefetchIterator(started(), depth):
        copies.finish(moved, event)
        yield batch, moved


DecoderParts = Mapping[str, tuple[ImageDecoder, Tensor]]  # by part: decoder and the label of each image


@dataclass(frozen=True, kw_only=True)
class ImageRecipe:
    """What is done to images: the same for every strategy, number of ranks and cache.

    `cacheable`: decoded images are the same in each epoch, since the crop is not taken while decoding. `key`
    is a digest of all that their pixels depend on, but for the part.
    """

    classes: int
    cacheable: bool
    key: str
    augmentation: Augmentation
    normalise: NormaliseImages


class ImageDataset(LabelledDataset):
    """Images that are decoded on the host or come from a cache, and are augmented on the device."""

    channels = 3
    shuffled = True

    def __init__(
        self,
        recipe: ImageRecipe,
        decoders: dict[str, ImageDecoder],
        caches: ImageCaches,
        workers: DecodeWorkers,
        context: DataContext,
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
        return self._load_batch(DecodeRequest(TRAIN, samples, AugmentationSeed(self._seed, epoch)))

    def evaluation_batch(self, samples: Tensor) -> Batch:
        """Return samples of the validation set; decoded here and now."""
        return self._load_batch(DecodeRequest(EVALUATION, samples, AugmentationSeed(self._seed, None)))

    def train_batches(self, batches: Sequence[Tensor], epoch: int) -> Iterator[Batch]:
        """Yield many batches, which are prepared ahead."""
        seed = AugmentationSeed(self._seed, epoch)
        return self._stream([DecodeRequest(TRAIN, samples, seed) for samples in batches])

    def evaluation_batches(self, batches: Sequence[Tensor]) -> Iterator[Batch]:
        """Yield many batches of the validation set, which are prepared ahead."""
        seed = AugmentationSeed(self._seed, None)
        return self._stream([DecodeRequest(EVALUATION, samples, seed) for samples in batches])

    def all_ranks_loaded(self) -> None:
        """Every rank has mapped what the ranks of a node share: nothing of it needs a name any more."""
        self._caches.unlink_shared()

    def pop_replaced_count(self) -> int:
        """Return how many corrupt images were replaced in the batches since the last call."""
        replaced, self._replaced = self._replaced, 0
        return replaced

    def close(self) -> None:
        """End the workers and leave nothing behind."""
        self._workers.close()
        self._caches.close()
        for shared in self._staged:
            shared.release()

    def _load_batch(self, request: DecodeRequest) -> Batch:
        decoded = self._decoders[request.part].decode(request.samples, request.moment)
        return self._to_batch(request, decoded.pixels.to(self._device), decoded.labels.to(self._device))

    def _stream(self, requests: Sequence[DecodeRequest]) -> Iterator[Batch]:
        decoded = zip(requests, self._workers.stream(requests), strict=True)
        for (request, done), (pixels, labels) in prefetch_to_device(decoded, self._device, _tensors_of):
            self._replaced += int((done.used != request.samples).sum())
            yield self._to_batch(request, pixels, labels)

    def _to_batch(self, request: DecodeRequest, pixels: Tensor, labels: Tensor) -> Batch:
        images = self._recipe.augmentation(pixels, request.samples, request.moment)
        return Batch(self._recipe.normalise(images), labels)


def _tensors_of(pair: tuple[DecodeRequest, DecodedBatch]) -> list[Tensor]:
    return [pair[1].pixels, pair[1].labels]


@dataclass(frozen=True, kw_only=True)
class DataContext:
    """What a data set is loaded for."""

    spec: RunSpec
    placement: Placement
    device: torch.device
    dtype: torch.dtype
    staged: list[SharedPath] = field(default_factory=list)  # copies of the data set that this rank uses

    def root(self) -> Path:
        """Return the data set's folder, on this node's own disk if the run says so.

        Raises InputError where no folder is configured, and where it can't be copied.
        """
        folder, target = self.placement.data, self.spec.input.stage
        if folder is None:
            raise no_data_root_error(self.spec.dataset)
        if target is None:
            return Path(folder)
        self.staged.append(stage_data(Path(folder), Path(target)))
        return self.staged[0].path

    @property
    def workers(self) -> int:
        """Processes of this rank that decode: as the run says, else from the cores that the rank has.

        Beside a GPU one core is left to the training loop; on a CPU the model needs half of them. 0: the rank
        decodes itself.
        """
        configured = self.spec.input.workers
        if configured is not None:
            return configured
        threads = self.placement.threads
        return max(1, threads - 1) if self.device.type == "cuda" else threads // 2


def assemble_image_dataset(recipe: ImageRecipe, parts: DecoderParts, context: DataContext) -> ImageDataset:
    """Put the run's cache between decoders and augmentation."""
    caches = ImageCaches(context.placement, context.device)
    decoders = {
        part: _with_cache(decoder, labels, part, recipe, caches, context.spec)
        for part, (decoder, labels) in parts.items()
    }
    parallel = any(decoder.parallel for decoder in decoders.values())
    pinned = context.device.type == "cuda"
    count = context.workers if parallel else 0
    workers = DecodeWorkers(decoders, count, context.spec.batch_size, pinned=pinned)
    return ImageDataset(recipe, decoders, caches, workers, context)


def _with_cache(
    decoder: ImageDecoder, labels: Tensor, part: str, recipe: ImageRecipe, caches: ImageCaches, spec: RunSpec
) -> ImageDecoder:
    if not recipe.cacheable:
        return decoder
    if spec.input.disk_cache:
        decoder = caches.on_disk(decoder, labels, part, recipe.key)
    if spec.cache == "memory":
        return caches.in_memory(decoder, labels, part)
    return caches.on_device(decoder, labels, part) if spec.cache == "device" else decoder
