"""What has to be measured for a run follows from the run alone."""

from __future__ import annotations

from dataclasses import replace

from hpcbench.ceilings.measurement_points import (
    compute_points,
    input_points,
    link_points,
    local_devices,
    points_of,
)
from hpcbench.ceilings.probe_plan import is_measured, one_run_per_ceilings, probe_spec
from hpcbench.sweep.run_spec import InputOptions, Resources, RunSpec
from tests.ceilings.written import compute, link, loader, matrix

DDP = RunSpec(name="d", strategy="ddp", backend="gloo", ranks=2, data_shards=2, batch_size=32, epochs=1)
ALONE = RunSpec(name="s", strategy="single_gpu", batch_size=64, epochs=1)
SERVED = replace(DDP, name="p", strategy="ps", servers=1, strategy_options={"server": "cpu"})


def test_model_is_measured_alone_and_as_often_as_a_node_has_ranks() -> None:
    """One process, and as many at once as the run has on its fullest node."""
    assert [(p.batch, p.ranks) for p in compute_points(DDP)] == [(32, 1), (32, 2)]
    assert [(p.batch, p.ranks) for p in compute_points(ALONE)] == [(64, 1)]
    over_two = replace(DDP, ranks=4, resources=Resources(nodes=2))
    assert [(p.batch, p.ranks) for p in compute_points(over_two)] == [(32, 1), (32, 2)]


def test_one_process_that_splits_its_batch_is_measured_in_pieces() -> None:
    """DataParallel gives each of its devices a part of the batch; a model that is cut does not."""
    dp = replace(ALONE, strategy="dp", devices=2, device="cuda")
    assert (32, 2) in [(p.batch, p.ranks) for p in compute_points(dp)]
    cut = replace(dp, strategy="model_parallel")
    assert {p.batch for p in compute_points(cut)} == {64}


def test_links_are_those_that_the_run_uses() -> None:
    """No link for one process; with a server at least that to the server."""
    assert link_points(ALONE) == []
    assert [(p.backend, p.ranks, p.nodes) for p in link_points(DDP)] == [("gloo", 2, 1)]
    assert [p.ranks for p in link_points(replace(SERVED, ranks=1))] == [2]


def test_data_that_is_prepared_as_a_whole_is_not_loaded_for_a_probe() -> None:
    """Staging or decoding a data set takes as long in a probe as in the run."""
    assert len(input_points(DDP)) == 1
    assert input_points(replace(DDP, input=InputOptions(stage="/scratch"))) == []
    assert input_points(replace(DDP, input=InputOptions(disk_cache=True))) == []


def test_run_is_measured_when_all_of_its_ceilings_are_there() -> None:
    """A missing ceiling, and one of another kind of device, leave a run unmeasured."""
    found = [compute(ranks=1), compute(ranks=2), loader(), link(), matrix(ranks=1), matrix(ranks=2)]
    assert is_measured(DDP, found)
    for missing in range(len(found)):
        assert not is_measured(DDP, found[:missing] + found[missing + 1 :])
    assert not is_measured(DDP, [replace(each, device="NVIDIA H200") for each in found])
    assert not is_measured(replace(DDP, batch_size=16), found)
    assert is_measured(replace(DDP, repeat=2, seed=2), found)


def test_probe_has_the_processes_of_its_largest_run() -> None:
    """Devices of one process count as processes where each is a device, a server as one more."""
    assert probe_spec([DDP, ALONE]).ranks == 2
    assert probe_spec([ALONE]).backend is None
    assert probe_spec([replace(SERVED, ranks=1)]).ranks == 2
    assert probe_spec([replace(ALONE, devices=4, device="cuda")]).ranks == 4
    assert local_devices(replace(ALONE, devices=4)) == 1
    assert probe_spec([replace(DDP, ranks=3, resources=Resources(nodes=2))]).processes == 4


def test_repeats_share_their_ceilings() -> None:
    """Runs with the same points are measured once."""
    repeats = [replace(DDP, repeat=number, seed=number) for number in range(3)]
    assert len(one_run_per_ceilings([*repeats, ALONE])) == 2
    assert points_of(DDP) == points_of(repeats[2])
