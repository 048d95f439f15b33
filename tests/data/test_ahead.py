"""Work that is done ahead in a thread, and processes that end when they are no longer needed."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from hpcbench.errors import InputError
from hpcbench.tasks.decode_workers import DecodedBatch, DecodeRequest, DecodeWorkers
from hpcbench.tasks.image_augmentation import AugmentationSeed
from hpcbench.tasks.image_pipeline import PrefetchIterator


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "hpcbench-input"]


def test_items_come_in_order_and_the_thread_ends() -> None:
    """Everything is yielded once, and nothing is left running."""
    assert list(PrefetchIterator(iter(range(50)), depth=3)) == list(range(50))
    assert _threads() == []


def test_work_goes_on_while_the_consumer_is_busy() -> None:
    """The next items are ready when the consumer comes back, but never more than was allowed."""
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10):
            made.append(number)
            yield number

    ahead = iter(PrefetchIterator(items(), depth=2))
    assert next(ahead) == 0
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert made == [0, 1, 2, 3]  # one taken, two in the queue, one in hand


def test_error_is_raised_where_the_items_are_used() -> None:
    """What was made before it is not lost, and the error has its own type."""

    def items() -> Iterator[int]:
        yield 1
        raise InputError("broken")

    seen = []
    with pytest.raises(InputError, match="broken"):
        for item in PrefetchIterator(items(), depth=2):
            seen.append(item)  # noqa: PERF402
    assert seen == [1]
    assert _threads() == []


def test_consumer_that_stops_early_ends_the_thread() -> None:
    """A run that is told to stop leaves no thread behind that waits to hand over a batch."""
    ahead = iter(PrefetchIterator(iter(range(1000)), depth=1))
    assert next(ahead) == 0
    ahead.close()  # type: ignore[attr-defined]
    assert _threads() == []


class _Counting:
    """A decoder that writes the sample's number into its pixels, or refuses one."""

    parallel = True
    shape = (4, 4)

    def __init__(self, refuses: int | None = None) -> None:
        self.refuses = refuses

    def __len__(self) -> int:
        return 1000

    def decode(
        self, samples: torch.Tensor, moment: AugmentationSeed, into: torch.Tensor | None = None
    ) -> DecodedBatch:
        if self.refuses in samples.tolist():
            raise InputError(f"sample {self.refuses}")
        assert into is not None
        into.copy_((samples % 251).view(-1, 1, 1, 1).expand_as(into))
        return DecodedBatch(into, samples * 2, samples)


def _requests(batch: int) -> list[DecodeRequest]:
    return [
        DecodeRequest("train", samples, AugmentationSeed(0, 0))
        for samples in torch.randperm(1000).split(batch)
    ]


@pytest.mark.parametrize(("count", "batch"), [(1, 7), (3, 40), (2, 100)])
def test_every_place_in_memory_is_read_before_it_is_used_again(count: int, batch: int) -> None:
    """However pieces, places and processes fall, each batch has its own pixels, in two passes."""
    workers = DecodeWorkers({"train": _Counting()}, count, batch)
    for _ in range(2):
        requests = _requests(batch)
        for request, done in zip(requests, workers.stream(requests), strict=True):
            assert torch.equal(done.pixels[:, 0, 0, 0].long(), request.samples % 251)
            assert torch.equal(done.labels, request.samples * 2)
    workers.close()


def test_processes_end_at_once_after_an_error() -> None:
    """A refused sample is told with its own message, and no process outlives that by seconds."""
    workers = DecodeWorkers({"train": _Counting(refuses=500)}, 3, 40)
    with pytest.raises(InputError, match=r"^sample 500$"):
        list(workers.stream(_requests(40)))
    began = time.monotonic()
    workers.close()
    assert time.monotonic() - began < 4
    assert multiprocessing.active_children() == []
