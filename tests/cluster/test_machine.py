from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from hpcbench.catalog import CATALOG
from hpcbench.launch import admission
from hpcbench.launch.machine_resources import (
    Machine,
    installed_gpus,
    this_machine,
    usable_cores,
    visible_gpus,
)
from hpcbench.sweep.run_spec import Resources
from tests.cluster.helpers import noop

TWO_CORES = Machine(cores=2, memory_bytes=1)
GPUS = ("A", "B", "C")


def test_cores_respect_affinity_and_quota(tmp_path: Path) -> None:
    """A control group's quota and this process's affinity both bound the cores, and one is the least."""
    allowed = len(os.sched_getaffinity(0))
    assert usable_cores(tmp_path) == allowed
    for text, cores in (("max 100000", allowed), ("100000 100000", 1), ("50000 100000", 1)):
        (tmp_path / "cpu.max").write_text(text)
        assert usable_cores(tmp_path) == cores
    assert this_machine().cores <= allowed


def test_quota_of_control_groups_version_1(tmp_path: Path) -> None:
    """The quota of an older kernel's control group is found where that keeps it."""
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("100000\n")
    assert usable_cores(tmp_path) == 1


def test_gpus_of_the_driver(tmp_path: Path) -> None:
    """GPUs and their names are read from the driver's files, without starting anything."""
    for number in (0, 1):
        folder = tmp_path / f"0000:0{number}:00.0"
        folder.mkdir()
        (folder / "information").write_text(f"Model: \t\t RTX {number}\nIRQ: 1\n")
    assert installed_gpus(tmp_path) == ("RTX 0", "RTX 1")


@pytest.mark.parametrize(
    ("selection", "visible"),
    [
        (None, GPUS),
        ("", ()),
        ("2,0", ("C", "A")),
        ("0,7,1", ("A",)),  # CUDA ignores what follows an unknown device
        ("-1", ()),
        ("GPU-1b2c", ("A",)),
        ("NoDevFiles", ()),
    ],
)
def test_visible_devices(selection: str | None, visible: tuple[str, ...]) -> None:
    """CUDA_VISIBLE_DEVICES means here what it means to CUDA."""
    assert visible_gpus(GPUS, selection) == visible


def test_more_gpus_than_there_are() -> None:
    """A run that needs more GPUs than the machine has is refused with both numbers."""
    spec = replace(noop(ranks=4), device="cuda", backend="nccl")
    reason = admission.obstacle_to_run(spec, Machine(cores=8, memory_bytes=1, gpus=("A",)), CATALOG, {})
    assert reason is not None and "4 GPUs" in reason and "1 of them" in reason
    assert (
        admission.obstacle_to_run(spec, Machine(cores=8, memory_bytes=1, gpus=("A",) * 4), CATALOG, {})
        is None
    )


def test_more_nodes_than_one() -> None:
    """The local executor has one node, and says so."""
    reason = admission.obstacle_to_run(replace(noop(), resources=Resources(nodes=2)), TWO_CORES, CATALOG, {})
    assert reason is not None and "2 nodes" in reason


def test_a_strategy_that_needs_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch is not installed, what needs it is refused with the way to get it; noop is not."""
    monkeypatch.setattr(admission, "_is_installed", lambda module: False)
    reason = admission.obstacle_to_run(replace(noop(), strategy="ddp"), TWO_CORES, CATALOG, {})
    assert reason is not None and "pip install" in reason
    assert admission.obstacle_to_run(noop(), TWO_CORES, CATALOG, {}) is None


def test_every_run_of_a_sweep_has_as_many_threads() -> None:
    """One process gets the same threads as each of two: its share of the cores is what a device is."""
    shares = admission.devices_sharing_cores([noop(ranks=1), noop(ranks=2), noop(ranks=4)])
    assert shares == {"cpu": 4}
    assert admission.threads_per_rank(Machine(cores=8, memory_bytes=1), shares["cpu"]) == 2
    assert admission.threads_per_rank(TWO_CORES, shares["cpu"]) == 1


def test_warnings() -> None:
    """More ranks than cores, and a shared machine, stand in the record."""
    assert admission.warnings_of(noop(ranks=2), TWO_CORES, shared=False) == []
    assert admission.warnings_of(noop(ranks=4), TWO_CORES, shared=True) == [
        "cpu-oversubscribed",
        "shared-machine",
    ]
