"""Files that include each other, several files at once, and groups in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcbench.catalog import CATALOG
from hpcbench.errors import InputError
from hpcbench.sweep.sweep_loading import load_sweep
from tests.config.files import HEAD, RUN, load, names, write


def test_file_without_a_name_is_named_by_itself(tmp_path: Path) -> None:
    """The sweep's name is then the file's."""
    path = write(tmp_path, f"version: 1\nresources: {{gpus_per_node: 0}}\n{RUN}", "study-2.yaml")
    assert load_sweep([path], CATALOG).name == "study-2"


def test_included_file_means_the_same_as_alone(tmp_path: Path) -> None:
    """Defaults belong to their file; included runs come first; resources that it lacks come from outside."""
    inner = "version: 1\ndefaults: {epochs: 7, ranks: 2}\nruns: [{strategy: ddp}]\n"
    write(tmp_path, inner, "inner.yaml")
    defaults = "defaults: {epochs: 3, warmup_steps: 1}\n"
    outer = f"{HEAD}include: [inner.yaml]\n{defaults}runs: [{{strategy: single_gpu}}]\n"
    ddp, single = load(tmp_path, outer).runs[:2]
    assert (ddp.name, ddp.epochs, ddp.warmup_steps) == ("ddp", 7, 5)
    assert (single.name, single.epochs, single.warmup_steps) == ("single_gpu", 3, 1)
    on_gpus = load(tmp_path, outer.replace("gpus_per_node: 0", "gpus_per_node: 4"))
    assert (on_gpus.runs[0].ranks, on_gpus.runs[0].device) == (2, "cuda")
    own = inner.replace("defaults", "resources: {gpus_per_node: 2}\ndefaults")
    write(tmp_path, own, "inner.yaml")
    assert load(tmp_path, outer).runs[0].resources.gpus_per_node == 2


def test_file_included_twice_counts_once(tmp_path: Path) -> None:
    """Two ways to one file are no cycle and no duplicate, and a group of each way has its runs."""
    write(tmp_path, f"{HEAD}{RUN}", "leaf.yaml")
    for name in "ab":
        group = f"groups: [{{id: {name}, factor: strategy}}]\n"
        write(tmp_path, f"version: 1\ninclude: leaf.yaml\n{group}", f"{name}.yaml")
    sweep = load(tmp_path, "version: 1\nname: s\ninclude: [a.yaml, b.yaml]\n")
    assert names(sweep) == ["ddp"]
    assert [(group.id, group.runs) for group in sweep.groups] == [("a", ("ddp",)), ("b", ("ddp",))]


def test_same_run_in_two_files_is_one_and_another_of_its_name_is_not(tmp_path: Path) -> None:
    """Name and content alike: one run. Name alone: an error that names both places."""
    one = write(tmp_path, f"{HEAD}{RUN}", "one.yaml")
    two = write(tmp_path, f"{HEAD}# moved\n{RUN}", "two.yaml")
    sweep = load_sweep([one, two], CATALOG)
    assert (names(sweep), len(sweep.runs), sweep.name) == (["ddp"], 3, "s")
    write(
        tmp_path,
        f"{HEAD}{RUN}    epochs: 2\n".replace("{strategy: ddp, ranks: 2}\n", "strategy: ddp\n    ranks: 2\n"),
        "two.yaml",
    )
    with pytest.raises(InputError, match=r"two\.yaml:5: .* from .*one\.yaml:5, and they differ in epochs"):
        load_sweep([one, two], CATALOG)


def test_groups_choose_by_field_or_name(tmp_path: Path) -> None:
    """`where` sees resolved fields, `runs` are globs, neither means all; runs stand in the sweep's order."""
    text = (
        f"{HEAD}runs:\n  - {{strategy: ddp, grid: {{ranks: [1, 2], batch_size: [8, 16]}}}}\n"
        "  - {strategy: single_gpu, batch_size: 16}\n"
        "groups:\n"
        "  - {id: all, factor: [strategy, ranks]}\n"
        "  - {id: sixteen, factor: strategy, where: {global_batch: 16}}\n"
        "  - {id: lr, factor: strategy, where: {optimizer: {lr: [0.1, 0.2]}, ranks: 2}}\n"
        "  - {id: globs, title: Some, factor: strategy_options, runs: ['single*', '*x2']}\n"
    )
    groups = {group.id: group for group in load(tmp_path, text).groups}
    assert len(groups["all"].runs) == 5 and groups["all"].factor == ("strategy", "ranks")
    assert groups["sixteen"].runs == ("ddp_bs16x1", "ddp_bs8x2", "single_gpu")
    assert groups["lr"].runs == ("ddp_bs8x2", "ddp_bs16x2")
    assert groups["globs"].runs == ("ddp_bs8x2", "ddp_bs16x2", "single_gpu")
    assert (groups["globs"].title, groups["all"].title) == ("Some", "all")
