"""Real probes of this machine: what they write, and how a sweep uses them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from hpcbench.ceilings.ceiling_records import (
    Ceiling,
    ComputeCeiling,
    CopyCheck,
    InputCeiling,
    LinkCeiling,
    MatrixCeiling,
    TransferCeiling,
    read_ceilings,
)
from tests.cluster.helpers import HPCBENCH, Lab, injected

C = TypeVar("C", bound=Ceiling)
SIZE_BYTES = 376_744  # of smallconv for one channel and ten classes, in fp32

RUNS: list[dict[str, Any]] = [
    {"strategy": "single_gpu"},
    {"strategy": "collective", "ranks": 2},
    {"strategy": "ps", "ranks": 1, "strategy_options": {"mode": "sync"}},
]
# smallconv on 8 x 8: 2 x multiplications of its three convolutions and its linear layer; backward twice as
# many, but for the first layer's input, which needs no gradient.
LAYERS = (2 * 9 * 1 * 32 * 64, 2 * 9 * 32 * 64 * 16, 2 * 9 * 64 * 128 * 4, 2 * 128 * 10)
FLOP_PER_IMAGE = 3 * sum(LAYERS) - LAYERS[0]


def write_sweep(folder: Path, runs: Sequence[dict[str, Any]] = RUNS, **defaults: Any) -> Path:
    """Write a sweep of short real runs."""
    usual = {"dataset": "digits", "model": "smallconv", "global_batch": 32, "epochs": 1, "repeats": 1}
    resources = {"nodes": 1, "gpus_per_node": 0, "time": "00:10:00"}
    content = {
        "version": 1, "name": "sweep", "defaults": usual | defaults, "resources": resources,
        "runs": list(runs),
    }  # fmt: skip
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Ceiling], dict[str, Any]]:
    """Probe for a sweep once; returns what stands in its results folder, and what was printed as JSON."""
    folder = tmp_path_factory.mktemp("probe")
    environment = os.environ | {"HPCBENCH_QUEUE_DIR": str(folder / "queue")}
    done = subprocess.run(
        [*HPCBENCH, "probe", str(write_sweep(folder)), "--json"],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (file,) = (folder / "results" / "sweep" / "ceilings").glob("*.jsonl")
    reading = read_ceilings(file)
    assert {record.host for record in reading.records} == {file.stem}
    return [record.ceiling for record in reading.records], json.loads(done.stdout)


def of_kind(ceilings: Sequence[Ceiling], kind: type[C]) -> list[C]:
    """Return the ceilings of a kind."""
    return [each for each in ceilings if isinstance(each, kind)]


def test_each_recipe_is_measured_once(probed: tuple[list[Ceiling], dict[str, Any]]) -> None:
    """The model alone, and with as many processes at once as a run has; what two runs share stands once."""
    ceilings, printed = probed
    points = sorted((each.batch, each.ranks) for each in of_kind(ceilings, ComputeCeiling))
    assert points == [(16, 1), (16, 2), (32, 1)]
    assert sorted(each.ranks for each in of_kind(ceilings, MatrixCeiling)) == [1, 2]
    assert sorted((each.batch, each.ranks) for each in of_kind(ceilings, InputCeiling)) == [(16, 2), (32, 1)]
    assert len(printed["ceilings"]) == len(ceilings)


def test_flop_are_those_of_the_layers(probed: tuple[list[Ceiling], dict[str, Any]]) -> None:
    """What is counted over forward and backward is what the layers' shapes say."""
    for each in of_kind(probed[0], ComputeCeiling):
        assert each.flop_per_image == FLOP_PER_IMAGE
        assert (each.parameter_bytes, each.parameter_tensors) == (SIZE_BYTES, 11)


def test_figures_of_a_step_agree(probed: tuple[list[Ceiling], dict[str, Any]]) -> None:
    """Rate, steps and phases of a step are of the same time, and no model beats the matrix products."""
    rate = {each.ranks: each.flop_per_s for each in of_kind(probed[0], MatrixCeiling)}
    for each in of_kind(probed[0], ComputeCeiling):
        mean_s = sum(each.step_s) / len(each.step_s)
        assert each.images_per_s == pytest.approx(each.batch / mean_s, rel=0.05)
        assert each.forward_backward_s + each.update_s == pytest.approx(mean_s, rel=0.05)
        assert 0 < each.flop_per_image * each.images_per_s < 1.5 * rate[each.ranks]


def test_links_go_beyond_the_size_of_the_model(probed: tuple[list[Ceiling], dict[str, Any]]) -> None:
    """Three operations from 1 KiB to more than all parameters; larger messages take longer."""
    links = of_kind(probed[0], LinkCeiling)
    assert [each.operation for each in links] == ["all_reduce", "broadcast", "send"]
    for each in links:
        assert each.size_bytes[0] == 1024
        assert SIZE_BYTES <= each.size_bytes[-1] < 2 * SIZE_BYTES
        assert all(len(repeats) >= 5 for repeats in each.seconds)
        assert min(each.seconds[-1]) > min(each.seconds[0])
        fastest = [min(repeats) for repeats in each.seconds]
        assert sum(fastest[-3:]) > sum(fastest[:3])


def test_cpu_has_no_device_copies(probed: tuple[list[Ceiling], dict[str, Any]]) -> None:
    """Where nothing is copied to a device, no rate of copies is claimed."""
    assert not of_kind(probed[0], TransferCeiling)
    assert not of_kind(probed[0], CopyCheck)


def test_sweep_probes_once(lab: Lab) -> None:
    """The first job measures before its first run, a later one of the same recipes finds it; no more."""
    runs = [{"strategy": "single_gpu"}]
    states = lab.submit(write_sweep(lab.folder, runs))
    assert {state.state for state in states.values()} == {"done"}
    (file,) = lab.results().ceilings.iterdir()
    before = file.read_text()
    assert '"compute_ceiling"' in before
    (loader,) = of_kind([record.ceiling for record in read_ceilings(file).records], InputCeiling)
    assert loader.workers == 0  # whatever the cores that a rank has: nothing prepares batches of digits ahead
    states = lab.submit(write_sweep(lab.folder, runs, repeats=2))
    assert {state.state for state in states.values()} == {"done"}
    assert len(states) == 2
    assert file.read_text() == before


def test_sweep_that_wants_no_probe_has_none(lab: Lab) -> None:
    """`probe: false` measures nothing, and neither does a sweep that trains nothing."""
    lab.submit(write_sweep(lab.folder, [{"strategy": "single_gpu", "probe": False}]))
    assert not lab.results().ceilings.exists()
    lab.submit(lab.sweep({"name": "n"}, name="nothing"))
    assert not lab.results("nothing").ceilings.exists()


def test_failed_probe_fails_no_run(lab: Lab) -> None:
    """A probe that dies is a line in the job's log; the run is done, and what was measured is kept."""
    code = (
        "import sys\n"
        "class Break:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'hpcbench.ceilings.probe.node_measurements':\n"
        "            raise RuntimeError('no probe today')\n"
        "sys.meta_path.insert(0, Break())\n"
    )
    environment = injected(
        lab.folder / "site", "if place:\n" + "".join(f"    {x}\n" for x in code.splitlines())
    )
    states = lab.submit(write_sweep(lab.folder, [{"strategy": "single_gpu"}]), **environment)
    assert {state.state for state in states.values()} == {"done"}
    logs = "".join(path.read_text() for path in lab.results().jobs.rglob("*.err"))
    assert "not all: rank 0: RuntimeError: no probe today" in logs


def test_one_recipe_is_added_to_a_file(lab: Lab) -> None:
    """Without a sweep, ceilings of one recipe are printed and go where --out says, behind what is there."""
    arguments = ("probe", "--strategy", "single_gpu", "--set", "batch_size=8", "--out", "node.jsonl")
    done = lab.run(*arguments)
    assert done.returncode == 0, done.stderr
    assert "smallconv on digits, fp32, batch 8, alone" in done.stdout
    first = read_ceilings(lab.folder / "node.jsonl").records
    assert [type(each.ceiling) for each in first] == [MatrixCeiling, InputCeiling, ComputeCeiling]
    assert not (lab.folder / "results").exists()
    assert lab.run(*arguments).returncode == 0
    assert len(read_ceilings(lab.folder / "node.jsonl").records) == 2 * len(first)


def test_a_strategy_of_one_process_needs_no_more_words(lab: Lab) -> None:
    """The usual number of ranks is that of the usual strategy, and of no other."""
    done = lab.run("probe", "--strategy", "single_gpu", "--set", "batch_size=8", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["ceilings"]
    assert {each["ranks"] for each in told} == {1}


def test_a_file_that_cannot_be_written_is_said_at_once(lab: Lab) -> None:
    """Nothing is measured for a place that takes no ceilings."""
    (lab.folder / "file").write_text("")
    begun = lab.folder / "begun"
    environment = injected(lab.folder / "site", f"if place:\n    open({str(begun)!r}, 'w').close()\n")
    out = lab.folder / "file" / "c.jsonl"
    done = lab.run("probe", "--strategy", "single_gpu", "--out", out, **environment)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert not begun.exists()


def test_nothing_to_measure_is_said(lab: Lab) -> None:
    """A strategy that trains nothing, or GPUs that are not here, are one message and status 2."""
    done = lab.run("probe", "--strategy", "noop", "--ranks", "2")
    assert done.returncode == 2
    assert "no run can be measured here" in done.stderr
    settings = ("--set", "resources={gpus_per_node: 64}", "--set", "batch_size=1")
    done = lab.run("probe", *settings, "--ranks", "64")
    assert done.returncode == 2
    assert "GPU" in done.stderr
