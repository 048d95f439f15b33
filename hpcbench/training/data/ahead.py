"""Work that is done before it is asked for: the next batches are on their way while the model computes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
POLL_S = 0.1


class Ahead(Generic[T]):
    """Runs an iterator in a thread, up to `depth` items ahead. An error in it is raised where it is used."""

    def __init__(self, items: Iterable[T], depth: int) -> None:
        self._items = items
        self._queue: queue.Queue[Any] = queue.Queue(depth)
        self._stopped = threading.Event()
        self._end = object()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="hpcbench-input", daemon=True)

    def __iter__(self) -> Iterator[T]:
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
            copies = [each.pin_memory().to(self._device, non_blocking=True) for each in tensors]
            event = torch.cuda.Event()
            event.record(self._stream)
        return copies, event

    def finish(self, copies: Iterable[Tensor], event: Any) -> None:
        """Let the current stream wait for the copies, and keep their memory until it has used them."""
        current = torch.cuda.current_stream(self._device)
        current.wait_event(event)
        for each in copies:
            each.record_stream(current)


def on_device(
    batches: Iterable[T],
    device: torch.device,
    tensors_of: Callable[[T], list[Tensor]],
    depth: int = 2,
) -> Iterator[tuple[T, list[Tensor]]]:
    """Yield each item with its tensors on the device; on a GPU they are fetched and copied ahead."""
    if device.type != "cuda":
        for batch in batches:
            yield batch, tensors_of(batch)
        return
    copies = DeviceCopies(device)

    def started() -> Iterator[tuple[T, list[Tensor], Any]]:
        for batch in batches:
            yield (batch, *copies.start(tensors_of(batch)))

    for batch, moved, event in Ahead(started(), depth):
        copies.finish(moved, event)
        yield batch, moved
