"""The sweeps of the two studies: their rows under their names, each of which can run."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcbench.catalog import CATALOG
from hpcbench.reference import CIFAR100, CIFAR100_GROUPS, IMAGENET, published_rows, run_name_key
from hpcbench.sweep.run_spec import Sweep
from hpcbench.sweep.sweep_loading import load_sweep

SWEEPS = Path(__file__).parents[2] / "sweeps"


def _load(name: str, *, smoke: bool = False) -> Sweep:
    return load_sweep([SWEEPS / f"{name}.yaml"], CATALOG, settings=(), only=(), smoke=smoke)


def test_cifar_rows_are_those_of_the_study() -> None:
    """All 23 names, letter for letter, with the batch, model, cache and precision that they say."""
    sweep = _load("cifar100")
    rows = {row["experiment"]: row for row in published_rows(CIFAR100).values()}
    runs = {spec.name: spec for spec in sweep.runs if spec.repeat == 0}
    assert set(runs) == set(rows)
    for name, spec in runs.items():
        assert spec.model == rows[name]["model"]
        batch = spec.batch_size if spec.strategy == "ps" else spec.global_batch
        assert batch == int(rows[name]["batch_size"])
        assert (spec.cache == "memory") == ("cacheTrue" in name)
        assert (spec.precision == "amp_fp16") == ("ampTrue" in name)
        assert spec.backend is None or ("gloo" in name) == (spec.backend == "gloo") or spec.strategy == "ps"
    assert len({spec.optimizer for spec in runs.values()} | {spec.epochs for spec in runs.values()}) == 2
    assert [group.id for group in sweep.groups] == [
        row["group"] for row in published_rows(CIFAR100_GROUPS).values()
    ]


def test_imagenet_methods_have_one_recipe() -> None:
    """The three methods of the study learn the same thing; its own batch size is a class of its own."""
    runs = {spec.name: spec for spec in _load("imagenet").runs if spec.repeat == 0}
    methods = [runs[name] for name in published_rows(IMAGENET)]
    assert [spec.global_batch for spec in methods] == [768, 768, 768]
    assert len({spec.recipe for spec in methods}) == 1
    assert {run_name_key(row["method"]) for row in published_rows(IMAGENET).values()} <= set(runs)
    assert {runs[name].global_batch for name in runs if name.endswith("bs256x4")} == {1024}


def test_all_has_every_row_of_both() -> None:
    """sweeps/all.yaml is the two studies and nothing else."""
    names = {spec.name for spec in _load("all").runs}
    assert names == {spec.name for name in ("cifar100", "imagenet") for spec in _load(name).runs}


@pytest.mark.parametrize("name", ["all", "scaling"])
def test_every_row_can_be_scaled_down(name: str) -> None:
    """--smoke keeps every run of the studies, on a machine without a GPU."""
    small = _load(name, smoke=True)
    assert {spec.name for spec in small.runs} == {spec.name for spec in _load(name).runs}
    assert all(spec.device == "cpu" and spec.ranks <= 4 for spec in small.runs)


def test_scaling_grows_as_it_says() -> None:
    """Weak runs keep the batch of a GPU, strong ones the batch of all, from 1 GPU to 8 nodes of 4."""
    runs = {spec.name: spec for spec in _load("scaling").runs if spec.repeat == 0}
    weak = [spec for name, spec in runs.items() if name.startswith("weak")]
    strong = [spec for name, spec in runs.items() if name.startswith("strong")]
    assert [spec.ranks for spec in weak] == [1, 2, 4, 8, 16, 32]
    assert {spec.batch_size for spec in weak} == {128}
    assert {spec.global_batch for spec in strong} == {1024}
