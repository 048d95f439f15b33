"""The fit of a link finds what the link was made of, and says how well it does."""

from __future__ import annotations

import pytest

from hpcbench.ceilings.link_fit import bandwidths, fit_link
from tests.ceilings.written import SIZES, link


def test_one_line_is_found_again() -> None:
    """Alpha, bandwidth, and no error; also between and beyond the sizes that were measured."""
    found = fit_link(link(alpha_s=2e-4, bandwidth=5e8))
    assert len(found.lines) == 1
    assert found.latency_s == pytest.approx(2e-4) and found.lines[-1].bandwidth_bytes_s == pytest.approx(5e8)
    for size in (100, 12_345, 10**9):
        assert found.seconds(size) == pytest.approx(2e-4 + size / 5e8)
    assert found.seconds(0) == 0
    assert found.left_out_error == pytest.approx(0, abs=1e-9) and found.repeatability == pytest.approx(0)


def test_a_knee_takes_a_second_line() -> None:
    """Where a library changes its algorithm one line is off, and two are not."""
    made = link(alpha_s=1e-4, bandwidth=1e9, knee_bytes=2**16)
    found = fit_link(made)
    assert len(found.lines) == 2
    assert SIZES[5] < found.lines[0].until_bytes < SIZES[6]
    assert found.seconds(2**12) == pytest.approx(1e-4 + 2**12 / 1e9)
    assert found.seconds(2**24) == pytest.approx(5e-4 + 2 * 2**24 / 1e9)


def test_noise_does_not_make_lines() -> None:
    """Measurements that scatter by 20 % are met by one line within what they repeat to, or nearly."""
    found = fit_link(link(noise=0.2))
    assert found.left_out_error is not None and found.repeatability is not None
    assert 0.02 < found.repeatability < 0.2
    assert found.left_out_error < 0.25


def test_a_run_pays_the_mean() -> None:
    """Where each third message takes ten times as long, lines are of the others, and the tail is told."""
    fast = fit_link(link(alpha_s=1e-4))
    often = fit_link(link(seconds=[[t, t, 10 * t] for t in (1e-4 + size / 1e9 for size in SIZES)]))
    assert often.seconds(1000) == pytest.approx(fast.seconds(1000))
    assert (fast.tail, often.tail) == (pytest.approx(1), pytest.approx(4))
    once = [[1e-4 + size / 1e9] * 3 for size in SIZES]
    once[2][0] = 1.0
    assert fit_link(link(seconds=once)).tail == pytest.approx(1)


def test_alpha_and_bandwidth_are_never_negative() -> None:
    """A link whose large messages are cheaper than linear still has sizes that cost time."""
    odd = link(seconds=[[1e-3 / (1 + k)] for k in range(len(SIZES))])
    found = fit_link(odd)
    assert all(each.alpha_s >= 0 and each.bandwidth_bytes_s > 0 for each in found.lines)
    assert found.repeatability is None


def test_few_sizes_are_no_reason_to_fail() -> None:
    """One or two sizes give a line; an error at left-out sizes is not known."""
    for n in (1, 2):
        few = link(size_bytes=SIZES[:n], seconds=[[1e-4]] * n)
        found = fit_link(few)
        assert found.left_out_error is None
        assert found.seconds(SIZES[0]) == pytest.approx(1e-4)


def test_bandwidths_are_those_of_nccl_tests() -> None:
    """busbw is algbw x 2(n-1)/n for an all-reduce, and algbw for what crosses the link once."""
    reduced = bandwidths(link(ranks=4))[-1]
    assert reduced.algbw_bytes_s == pytest.approx(SIZES[-1] / reduced.seconds)
    assert reduced.busbw_bytes_s == pytest.approx(1.5 * reduced.algbw_bytes_s)
    sent = bandwidths(link("send"))[-1]
    assert sent.busbw_bytes_s == sent.algbw_bytes_s
