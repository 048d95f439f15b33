"""The parameter server against what the link allows, and against one message for each tensor."""

from __future__ import annotations

import pytest

from benchmarks.ps_rank import SERVER, WORKERS
from benchmarks.ranks import run_ranks

SERVERS = 1


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Measure ResNet-18 with two workers and a server; seconds, in the eyes of the slowest."""
    seen = run_ranks("benchmarks.ps_rank", WORKERS + 1, tmp_path_factory.mktemp("ps"))
    slowest = {name: max(each[name] for each in seen[:SERVER]) for name in seen[0]}
    return {**slowest, "update": seen[SERVER]["update"]}


def test_step_is_near_the_lower_bound(figures: dict[str, float]) -> None:
    """A synchronous step takes at most 1.25 times what the link and the arithmetic need.

    docs/methodology.md, formulas: in each direction at least max(M/B, nM/(kB)). Push and pull overlap, so the
    larger of them counts, with the bandwidth B that the link has in one direction while the other is in use.
    """
    size, bandwidth = figures["bytes"], figures["bytes"] / figures["swap"]
    transfer_s = max(size / bandwidth, WORKERS * size / (SERVERS * bandwidth))
    bound_s = transfer_s + figures["compute"] + figures["update"]
    ms = {name: 1e3 * value for name, value in figures.items()}
    print(
        f"\nps, ResNet-18 ({size / 1e6:.1f} MB), {WORKERS} workers, {SERVERS} server: link "
        f"{bandwidth / 1e9:.2f} GB/s each way at once; transfer {1e3 * transfer_s:.1f} ms + compute "
        f"{ms['compute']:.1f} ms + update {ms['update']:.1f} ms = bound {1e3 * bound_s:.1f} ms; "
        f"step {ms['step']:.1f} ms = {figures['step'] / bound_s:.2f} x bound"
    )
    assert figures["step"] <= 1.25 * bound_s


def test_flat_exchange_beats_one_message_for_each_tensor(figures: dict[str, float]) -> None:
    """Pieces of a flat vector, all under way at once, against tensor after tensor.

    The aim is three times as fast, as on a busy machine, where each message waits for its process. On an idle
    one the bytes alone take half of what tensor after tensor takes: nothing can be three times as fast.
    """
    ratio = figures["per_tensor"] / figures["exchange"]
    print(
        f"\nps, exchange of {figures['tensors']:.0f} tensors: one by one "
        f"{1e3 * figures['per_tensor']:.1f} ms, flat {1e3 * figures['exchange']:.1f} ms: "
        f"{ratio:.2f} x as fast"
    )
    assert ratio >= 3
