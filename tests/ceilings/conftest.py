"""Each test has a results folder and a queue of its own, and leaves no process behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.helpers import Lab, eventually


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
