"""Keeps a data set on the node's local disk from the first run of a job that stages it to the last."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hpcbench.errors import HpcbenchError
from hpcbench.runs.results_folder import ResultsFolder, read_spec_file
from hpcbench.tasks.shared_folders import stage_data

STDOUT = 1
STAGING_POLL_S = 0.2


@contextmanager
def keep_staged(
    results: Path, runs: Iterable[tuple[str, int]], stopped: Callable[[], bool] | None = None
) -> Iterator[None]:
    """Keep what at least two of the runs stage, until the end; a copy still being made is given up then.

    With `stopped` it waits for the copies first, unless the job is told to stop: what is measured while one
    is made, a run or a ceiling, would be measured on a busy machine.
    """
    holders = [
        subprocess.Popen(
            [sys.executable, "-m", "hpcbench.launch.node_staging", source, target],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        for source, target in _shared_copies(ResultsFolder(results), runs)
    ]
    try:
        if stopped:
            for holder in holders:
                _await_copy(holder, stopped)
        yield
    finally:
        for holder in holders:
            assert holder.stdin is not None
            holder.stdin.close()
            holder.terminate()
        for holder in holders:
            holder.wait()
            assert holder.stdout is not None
            holder.stdout.close()


def _await_copy(holder: subprocess.Popen[bytes], stopped: Callable[[], bool]) -> None:
    """Wait until a holder has its copy, or can't make one: both can be read."""
    assert holder.stdout is not None
    while not stopped() and not select.select([holder.stdout], [], [], STAGING_POLL_S)[0]:
        continue


def _shared_copies(results: ResultsFolder, runs: Iterable[tuple[str, int]]) -> list[tuple[str, str]]:
    wanted: Counter[tuple[str, str]] = Counter()
    for name, repeat in runs:
        try:
            stored = read_spec_file(results.run(name, repeat))
        except (HpcbenchError, OSError):
            continue  # told when its turn comes
        if stored.data and stored.spec.input.stage:
            wanted[stored.data, stored.spec.input.stage] += 1
    return [pair for pair, count in wanted.items() if count > 1]


def hold_copy(source: Path, target: Path) -> None:
    """Use the staged copy until standard input ends, which it does when the job has died, too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # while it is copied: what is there is removed
    copy = stage_data(source, target)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with suppress(OSError):  # the job has died
        os.write(STDOUT, b"\n")
    sys.stdin.read()
    copy.release()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    hold_copy(Path(sys.argv[1]), Path(sys.argv[2]))
