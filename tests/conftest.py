"""What holds for all tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.cluster.helpers import Lab, eventually

# A runner in the background may have Ctrl-C ignored, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A property is about values, not about time: the first example may import half of scipy on a busy machine.
settings.register_profile("house", deadline=None)
settings.load_profile("house")


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """Return a place for sweeps and results; fails the test if a process outlives it."""
    monkeypatch.setenv("HPCBENCH_QUEUE_DIR", str(tmp_path / "queue"))
    lab = Lab(tmp_path)
    yield lab
    try:
        eventually(lambda: not lab.leftovers(), within_s=5)
    finally:
        for process in lab.leftovers():
            process.kill()
