"""What a device does by itself: matrix products, copies from the host, copies to another device."""

from __future__ import annotations

from itertools import permutations

import torch

from hpcbench.measure.ceilings.team import Team, median_by, times_that_fit
from hpcbench.training.measurement import Timeline, timeline_for

TYPES = {
    "fp64": torch.float64, "fp32": torch.float32, "tf32": torch.float32, "amp_fp16": torch.float16,
    "amp_bf16": torch.bfloat16,
}  # fmt: skip
MATRIX_SIDES = {"cpu": (256, 512, 1024), "cuda": (2048, 4096, 8192)}
MATRIX_S, LONGEST_PRODUCT_S = 0.15, 1.0
TRIES = 3

COPY_SIZES = tuple(1 << shift for shift in range(16, 29, 2))  # 64 KiB to 256 MiB
COPY_REPEATS = 10
CHECKED_BYTES = 16 << 20


def matrix_rate(team: Team, precision: str, at_once: int) -> float:
    """Return the FLOP/s of a device of this node while so many compute: square products, the best side.

    A product of two n x n matrices is counted as 2 n^3 (Golub and Van Loan, section 1.1.11).
    """
    allow_tf32 = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    rates = []
    for side in MATRIX_SIDES[team.device.type]:
        team.barrier()
        rates.append(_product_rate(team.device, TYPES[precision], side) if team.works(at_once) else 0.0)
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
    count = times_that_fit(MATRIX_S / TRIES, once_s, 1, 1000)
    fastest_s = min(_multiply(marker, left, right, out, count) / count for _ in range(TRIES))
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
    sent = torch.randint(256, (CHECKED_BYTES,), dtype=torch.uint8, generator=generator)
    for first, second in permutations(range(torch.cuda.device_count()), 2):
        pair = f"{first}->{second}"
        pairs.append(pair)
        arrived = sent.to(f"cuda:{first}").to(f"cuda:{second}").cpu()
        if not torch.equal(arrived, sent):
            broken.append(pair)
    return pairs, broken
