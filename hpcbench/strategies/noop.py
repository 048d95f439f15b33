"""Trains nothing: for trying out queues, supervisors and collectors without torch."""

from __future__ import annotations

import time

from hpcbench.strategies.options import NoopOptions


class PretendedFailureError(RuntimeError):
    """The failure that `fail_at_step` asked for."""


class Noop:
    """Pretends to do a step."""

    def __init__(self, options: NoopOptions) -> None:
        self.options = options

    def step(self, index: int) -> None:
        """Take as long as a step was said to take, or fail where it was told to."""
        if index == self.options.fail_at_step:
            raise PretendedFailureError(f"asked to fail at step {index}")
        time.sleep(self.options.step_s)
