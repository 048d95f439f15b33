"""Measurements inside one node: a model alone, the loader alone, matrix products, copies between host and
devices.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice, permutations
from typing import Generic, TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

from hpcbench.ceilings.probe.probe_team import ProbeTeam, median_by, repetitions_in
from hpcbench.training.measurement import Timeline, WindowTimes, clock_for, timeline_for

BatchType = TypeVar("BatchType")
WARM_UP_STEPS = 3
COMPUTE_WINDOWS, COMPUTE_WINDOW_S = 2, 0.35
MIN_WINDOW_STEPS, MAX_WINDOW_STEPS = 2, 200
# A step that takes so long is measured in one window: it is no matter of a moment's disturbance any more.
LONG_STEP_S = 2.0


@dataclass(frozen=True)
class LocalTrainer(Generic[BatchType]):
    """One process's model with its batches, and the two parts of a step."""

    batches: Sequence[BatchType]
    forward_backward: Callable[[BatchType], object]
    update: Callable[[], object]


def count_flop(trainer: LocalTrainer[BatchType]) -> int:
    """Return the floating-point operations of a training step on one batch (docs/methodology.md, M9)."""
    with FlopCounterMode(display=False) as counter:
        trainer.forward_backward(trainer.batches[0])
    trainer.update()
    return int(counter.get_total_flops())


def time_model_alone(team: ProbeTeam, trainer: LocalTrainer[BatchType] | None) -> WindowTimes:
    """Train at the same time on all processes that have a trainer, and return how fast that goes here.

    Of several windows the fastest on this node counts, since a ceiling is what a device can do and not what
    other processes left of it; in it, the process in the middle.
    """
    once = _training_window(team, trainer, 1, warm_up=WARM_UP_STEPS)
    once_s = team.largest(once.wall_s if once else 0.0)
    steps = repetitions_in(COMPUTE_WINDOW_S, once_s, MIN_WINDOW_STEPS, MAX_WINDOW_STEPS)
    windows = 1 if once_s > LONG_STEP_S else COMPUTE_WINDOWS
    seen = team.gather([_training_window(team, trainer, steps) for _ in range(windows)])
    at_once = [[each for each in window if each] for window in zip(*team.on_my_node(seen), strict=True)]
    fastest = min(at_once, key=lambda window: max(each.wall_s for each in window))
    middle: WindowTimes = median_by(fastest, lambda each: each.wall_s)
    return middle


def _training_window(
    team: ProbeTeam, trainer: LocalTrainer[BatchType] | None, steps: int, warm_up: int = 0
) -> WindowTimes | None:
    if trainer is None:
        team.barrier()
        return None
    batches = islice(cycle(trainer.batches), warm_up + steps)
    for batch in islice(batches, warm_up):
        trainer.forward_backward(batch)
        trainer.update()
    clock = clock_for(team.device)
    team.barrier()
    clock.begin()
    for batch in batches:
        clock.enter("data_wait")  # where a step begins; there is nothing to wait for
        clock.enter("forward_backward")
        trainer.forward_backward(batch)
        clock.enter("update")
        trainer.update()
    clock.enter("other")
    return clock.end()


FIRST_PASS_S = 0.5
FIRST_PASS_CHUNK = 8
LOADER_PASSES = 3


@dataclass(frozen=True)
class LoaderFeed:
    """A rank's loader: `take` yields the batches of some of the `steps` of an epoch.

    `wait` returns when what was begun on the device is done.
    """

    steps: int
    take: Callable[[Sequence[int]], Iterable[object]]
    wait: Callable[[], None]


def time_loader_alone(team: ProbeTeam, feed: LoaderFeed | None) -> tuple[int, float]:
    """Return how many steps each process has loaded, and in how many seconds the slowest of this node.

    The first pass finds out how many batches half a second brings; it starts the loader's processes and
    fills its cache. The same batches are then loaded again, and the fastest of the passes counts.
    """
    mine = _first_pass(feed) if feed else None
    loaded = [steps for steps in team.gather(mine) if steps is not None]
    steps = min(loaded)
    best = float("inf")
    for _ in range(LOADER_PASSES):
        team.barrier()
        took = _loader_pass(feed, steps) if feed else 0.0
        best = min(best, max(team.on_my_node(team.gather(took))))
    return steps, best


def _first_pass(feed: LoaderFeed) -> int:
    began, done = time.perf_counter(), 0
    while done < feed.steps and time.perf_counter() - began < FIRST_PASS_S:
        last = min(done + FIRST_PASS_CHUNK, feed.steps)
        for _ in feed.take(range(done, last)):
            continue
        done = last
    feed.wait()
    return done


def _loader_pass(feed: LoaderFeed, steps: int) -> float:
    began = time.perf_counter()
    for _ in feed.take(range(steps)):
        continue
    feed.wait()
    return time.perf_counter() - began


MATRIX_DTYPES = {
    "fp64": torch.float64, "fp32": torch.float32, "tf32": torch.float32, "amp_fp16": torch.float16,
    "amp_bf16": torch.bfloat16,
}  # fmt: skip
MATRIX_SIDES = {"cpu": (256, 512, 1024), "cuda": (2048, 4096, 8192)}
MATRIX_BUDGET_S, LONGEST_PRODUCT_S = 0.15, 1.0
MATRIX_TRIES = 3

COPY_SIZES = tuple(1 << shift for shift in range(16, 29, 2))  # 64 KiB to 256 MiB
COPY_REPEATS = 10
COPY_CHECK_BYTES = 16 << 20


def matrix_rate(team: ProbeTeam, precision: str, at_once: int) -> float:
    """Return the FLOP/s of a device of this node while so many compute: square products, the best side.

    A product of two n x n matrices is counted as 2 n^3 (Golub and Van Loan, section 1.1.11).
    """
    allow_tf32 = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    rates = []
    for side in MATRIX_SIDES[team.device.type]:
        team.barrier()
        rates.append(
            _product_rate(team.device, MATRIX_DTYPES[precision], side) if team.works(at_once) else 0.0
        )
    torch.backends.cuda.matmul.allow_tf32 = allow_tf32
    best = [max(each) for each in team.on_my_node(team.gather(rates)) if any(each)]
    return median_by(best, float)


def _product_rate(device: torch.device, dtype: torch.dtype, side: int) -> float:
    marker = timeline_for(device)
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    _multiply(marker, left, right, out, 1)
    once_s = _multiply(marker, left, right, out, 1)
    if once_s > LONGEST_PRODUCT_S:
        return 2 * side**3 / once_s
    count = repetitions_in(MATRIX_BUDGET_S / MATRIX_TRIES, once_s, 1, 1000)
    fastest_s = min(_multiply(marker, left, right, out, count) / count for _ in range(MATRIX_TRIES))
    return 2 * side**3 / fastest_s


def _multiply(
    marker: Timeline, left: torch.Tensor, right: torch.Tensor, out: torch.Tensor, count: int
) -> float:
    began = marker.mark()
    for _ in range(count):
        torch.mm(left, right, out=out)
    ended = marker.mark()
    marker.wait()
    return marker.between_s(began, ended)


def copy_times(device: torch.device, *, pinned: bool) -> tuple[list[int], list[list[float]]]:
    """Return sizes, and for each the seconds of repeated copies from host memory to a GPU."""
    marker = timeline_for(device)
    host = torch.empty(COPY_SIZES[-1], dtype=torch.uint8, pin_memory=pinned)
    there = torch.empty(COPY_SIZES[-1], dtype=torch.uint8, device=device)
    seconds: list[list[float]] = [[] for _ in COPY_SIZES]
    there.copy_(host, non_blocking=True)
    for _ in range(COPY_REPEATS):
        for size, of_size in zip(COPY_SIZES, seconds, strict=True):
            began = marker.mark()
            there[:size].copy_(host[:size], non_blocking=True)
            ended = marker.mark()
            marker.wait()
            of_size.append(marker.between_s(began, ended))
    return list(COPY_SIZES), seconds


def check_copies() -> tuple[list[str], list[str]]:
    """Copy random bytes between each two GPUs; return all pairs and those whose bytes arrived changed."""
    pairs, broken = [], []
    generator = torch.Generator().manual_seed(0)
    sent = torch.randint(256, (COPY_CHECK_BYTES,), dtype=torch.uint8, generator=generator)
    for first, second in permutations(range(torch.cuda.device_count()), 2):
        pair = f"{first}->{second}"
        pairs.append(pair)
        arrived = sent.to(f"cuda:{first}").to(f"cuda:{second}").cpu()
        if not torch.equal(arrived, sent):
            broken.append(pair)
    return pairs, broken
