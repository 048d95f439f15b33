"""A real Slurm for the session, in a folder and on ports of its own; every test leaves its queue empty."""

from __future__ import annotations

import os
import random
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cluster.helpers import eventually
from tests.slurm.helpers import ClusterLab, Slurm


def _free_ports() -> int:
    """Return a number after which the ports of a lab are free."""
    while True:
        base = random.randrange(20_000, 30_000, 200)
        with ExitStack() as held:
            try:
                for offset in (6, 17, 19, 101, 102):
                    held.enter_context(socket.create_server(("127.0.0.1", base + offset)))
            except OSError:
                continue
        return base


def _started(**wishes: str) -> Iterator[Slurm]:
    if os.getuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("a cluster on this machine can only be started by root on Debian: make test-slurm")
    # Not pytest's own folder: the sockets of the daemons need a short path.
    folder = tempfile.mkdtemp(prefix="hpcbench-lab-")
    slurm = Slurm(
        {
            "HPCBENCH_LAB": folder,
            "HPCBENCH_LAB_LINK": "0",
            "HPCBENCH_LAB_PORT": str(_free_ports()),
            "SLURM_CONF": f"{folder}/slurm.conf",
            **wishes,
        }
    )
    try:
        slurm.script("up.sh")
        yield slurm
    finally:
        slurm.script("down.sh", "--purge")


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """Start two nodes of four CPUs and four pretended GPUs, with accounting."""
    yield from _started()


@pytest.fixture(scope="module")
def slurm_without_accounting() -> Iterator[Slurm]:
    """Start one node more, of a cluster that keeps no accounts."""
    yield from _started(HPCBENCH_LAB_ACCOUNTING="0", HPCBENCH_LAB_NODES="1")


def _lab(slurm: Slurm, folder: Path) -> Iterator[ClusterLab]:
    lab = ClusterLab(folder, slurm)
    yield lab
    ids = slurm.jobs()
    if ids:
        slurm.ask("scancel", *{each.partition("_")[0] for each in ids})
        eventually(lambda: not slurm.jobs(), within_s=60)
    slurm.script("up.sh")  # nodes that a test has taken down come back
    eventually(lambda: not lab.leftovers(), within_s=15)


@pytest.fixture
def lab(slurm: Slurm, tmp_path: Path) -> Iterator[ClusterLab]:
    """Return a place for sweeps and results on the cluster."""
    yield from _lab(slurm, tmp_path)


@pytest.fixture
def bare_lab(slurm_without_accounting: Slurm, tmp_path: Path) -> Iterator[ClusterLab]:
    """Return a place for sweeps and results on the cluster without accounting."""
    yield from _lab(slurm_without_accounting, tmp_path)
