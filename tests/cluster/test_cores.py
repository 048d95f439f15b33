"""Which cores a rank is bound to."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from hpcbench.launch import machine_resources
from hpcbench.launch.machine_resources import (
    assign_cores,
    cores_near_gpus,
    cores_of_ranks,
    parse_core_list,
    sort_by_siblings,
)
from hpcbench.launch.rank_processes import SupervisorInbox
from hpcbench.launch.supervisor import supervise
from hpcbench.runs.events import RunStarted
from hpcbench.runs.record_reader import read_events
from hpcbench.sweep.run_spec import Resources
from tests.cluster.helpers import noop
from tests.cluster.test_supervisor import task_of

LEFT, RIGHT = frozenset(range(4)), frozenset(range(4, 8))
EIGHT = range(8)


def node(folder: Path, *near: str) -> dict[str, Path]:
    """Write what the driver and the kernel tell of GPUs, each near the cores of a list."""
    for number, text in enumerate(near):
        address = f"0000:{number + 1:X}A:00.0"  # the driver and the kernel write letters in different ways
        for path, name in ((folder / "driver" / address, "information"),
                           (folder / "pci" / address.lower(), "local_cpulist")):  # fmt: skip
            path.mkdir(parents=True)
            (path / name).write_text(f"{text}\n")
    return {"driver": folder / "driver", "pci": folder / "pci"}


def test_lists_of_the_kernel() -> None:
    """The kernel's lists of cores are understood, the empty one too."""
    assert parse_core_list("0-3,8,10-11\n") == {0, 1, 2, 3, 8, 10, 11}
    assert parse_core_list("\n") == frozenset()


def test_each_gpu_has_the_cores_of_its_socket(tmp_path: Path) -> None:
    """A GPU's cores are those of its slot's socket, in the order in which CUDA_VISIBLE_DEVICES names GPUs."""
    tree = node(tmp_path, "0-3", "4-7")
    assert cores_near_gpus(None, **tree, allowed=EIGHT) == (LEFT, RIGHT)
    assert cores_near_gpus("1,0", **tree, allowed=EIGHT) == (RIGHT, LEFT)
    assert cores_near_gpus(None, **tree, allowed=range(2, 8)) == (frozenset({2, 3}), RIGHT)
    assert cores_near_gpus(None, **tree, allowed=RIGHT) == (RIGHT, RIGHT), "none of the near ones is ours"


def test_nobody_is_bound_where_others_may_use_the_same_cores(tmp_path: Path) -> None:
    """With some of a node's GPUs and all of its cores, nothing is known of what the others do."""
    tree = node(tmp_path, "0", "0")
    everything = range(os.cpu_count() or 1)
    assert cores_near_gpus("0", **tree, allowed=everything) == ()
    assert len(cores_near_gpus("0", **tree, allowed=[99])) == 1
    assert cores_near_gpus(None, **node(tmp_path / "none"), allowed=everything) == ()


def test_near_cores_go_first_and_none_goes_twice() -> None:
    """Neighbours share a socket's cores evenly; who needs more takes what is left elsewhere."""
    assert assign_cores([LEFT, RIGHT], 4, EIGHT) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert assign_cores([RIGHT, RIGHT], 2, EIGHT) == [[4, 5], [6, 7]]
    assert assign_cores([RIGHT, RIGHT], 4, EIGHT) == [[4, 5, 0, 1], [6, 7, 2, 3]]
    assert assign_cores([LEFT] * 3, 3, EIGHT) is None


def test_threads_of_one_core_stay_together(tmp_path: Path) -> None:
    """Where cores have two threads, a rank gets both of a core."""
    for core in range(4):
        folder = tmp_path / f"cpu{core}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{core % 2},{core % 2 + 2}\n")
    assert sort_by_siblings(range(4), tmp_path) == [0, 2, 1, 3]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"ranks": 2}, {0: [0, 1], 1: [4, 5]}),
        ({"ranks": 1, "devices": 2}, {0: [0, 1, 4, 5]}),
        ({"ranks": 3}, {}),
        ({"ranks": 2, "device": "cpu"}, {}),
    ],
)
def test_ranks_have_the_cores_of_their_devices(
    fields: dict[str, object], expected: dict[int, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank has the cores of all its devices; without GPUs, or with too few, none is bound."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(EIGHT))
    monkeypatch.setattr(machine_resources, "sort_by_siblings", sorted)
    spec = replace(noop(), **({"device": "cuda", "resources": Resources(gpus_per_node=2)} | fields))
    assert cores_of_ranks(spec, (LEFT, RIGHT), 2) == expected


def test_a_rank_keeps_to_its_cores(tmp_path: Path) -> None:
    """A rank that is given cores runs on them, and its record says which, and how many the machine has."""
    mine = sorted(os.sched_getaffinity(0))
    task = replace(task_of(tmp_path / "run", noop(ranks=2)), cores={0: mine[:1]})
    assert supervise(task, SupervisorInbox()).state == "finished"
    bound = []
    for rank in range(2):
        event = read_events(task.claim.folder.events(1, rank)).records[0].event
        assert isinstance(event, RunStarted)
        assert event.environment["cores_usable"] == len(mine)
        bound.append(event.environment["cores_bound"])
    assert bound == [mine[:1] if len(mine) > 1 else None, None]
