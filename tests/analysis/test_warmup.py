"""Where a run was warm is found from its windows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcbench.analysis.step_windows import MAX_COLD_SHARE, RunWindows, cold_windows, mark_cold_windows
from hpcbench.runs.events import Steps
from hpcbench.runs.rank_records import StepColumns


@pytest.mark.parametrize(
    ("step_s", "cold"),
    [
        ([1.0] * 8, 0),
        ([3.0, 1.5, *[1.0] * 8], 2),
        ([1.04, *[1.0] * 7], 0),
        ([1.06, *[1.0] * 7], 1),
        ([0.5, *[1.0] * 7], 0),
        ([2.0, 1.0, 1.0], 0),
        ([9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0], 2),
        ([], 0),
    ],
)
def test_windows_count_from_the_first_that_is_no_slower_than_the_rest(step_s: list[float], cold: int) -> None:
    """Slow beginnings are left out, fast ones and noise are not, and never more than a quarter is."""
    assert cold_windows(step_s) == cold


@given(st.lists(st.floats(1e-6, 1e3), max_size=60))
def test_at_most_a_quarter_is_left_out(step_s: list[float]) -> None:
    """Whatever the times are, three quarters of the windows count."""
    assert 0 <= cold_windows(step_s) <= MAX_COLD_SHARE * len(step_s)


def window(first_step: int, wall_s: float, *, counted: bool = True) -> Steps:
    """Return a window of two steps of one rank."""
    return Steps(
        epoch=1, first_step=first_step, steps=2, counted=counted, samples=8, wall_s=wall_s, data_wait_s=0.0,
        forward_backward_s=wall_s, exchange_s=0.0, update_s=0.0, other_s=0.0, step_s=[wall_s / 2] * 2, lr=0.1,
    )  # fmt: skip


def test_each_attempt_warms_up_by_itself() -> None:
    """A run that goes on in a new process is cold again; what was declared as warm-up stays that."""
    first = [window(0, 9.0, counted=False), window(2, 2.0), *(window(2 * n, 1.0) for n in range(2, 6))]
    second = [window(12, 3.0), *(window(2 * n, 1.0) for n in range(7, 11))]
    attempts = np.repeat([1, 2], [len(first), len(second)])
    windows = RunWindows(attempts, (StepColumns.of([*first, *second]),), np.zeros(len(attempts), dtype=bool))
    assert mark_cold_windows(windows).counted.first_step.tolist() == [4, 6, 8, 10, 14, 16, 18, 20]
    assert np.flatnonzero(mark_cold_windows(windows).cold).tolist() == [1, 6]
