"""`--set`, `--only`, `--data`, `--smoke`, and one run by itself."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from hpcbench.catalog import CATALOG
from hpcbench.errors import InputError
from hpcbench.sweep import yaml_document
from hpcbench.sweep.catalog_entries import Catalog
from hpcbench.sweep.run_spec import RunSpec
from hpcbench.sweep.sweep_loading import dump_sweep, load_run, load_sweep
from tests.config.files import HEAD, KINDS, ON_TWO_GPUS, RUN, load, names, refusal, write

REAL = dataclasses.replace(
    CATALOG,
    datasets={
        **CATALOG.datasets,
        "photos": dataclasses.replace(CATALOG.datasets["digits"], files="package.module:Files"),
    },
)
PHOTOS = f"{HEAD}data: {{photos: 'DATA'}}\ndefaults: {{dataset: photos}}\n{RUN}"


def test_settings_lie_over_every_run(tmp_path: Path) -> None:
    """Values are YAML and go through the same checks."""
    run = load(
        tmp_path,
        f"{HEAD}{RUN[:-2]}, epochs: 3, optimizer: {{lr: 0.5}}}}\n",
        settings=["epochs=9", "optimizer.lr=2", "schedule={name: step, gamma: 0.5}", "evaluate=false"],
    ).runs[0]
    assert (run.epochs, run.optimizer.lr, run.schedule.gamma, run.evaluate) == (9, 2.0, 0.5, False)


def test_setting_takes_the_axis_out_of_a_grid(tmp_path: Path) -> None:
    """A field that the command line sets no longer varies, nor does the field that it excludes."""
    text = f"{HEAD}runs:\n  - {{strategy: ddp, ranks: 2, grid: {{batch_size: [8, 16], seed: [0, 5]}}}}\n"
    for setting in ("batch_size=4", "global_batch=8"):
        sweep = load(tmp_path, text, settings=[setting])
        assert names(sweep) == ["ddp_seed0", "ddp_seed5"]
        assert {run.batch_size for run in sweep.runs} == {4}


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("epochs=three", ("--set epochs: ", "'three'", "a whole number")),
        ("optimzer.lr=1", ("--set optimzer.lr: ", "Did you mean optimizer.lr?")),
        ("epochs", ("--set: a setting is KEY=VALUE", "'epochs'")),
        ("epochs=", ("--set: a setting is KEY=VALUE",)),
        ("optimizer.lr=.nan", ("--set optimizer.lr: ", "NaN")),
        ("epochs=[", ("--set epochs: ", "not YAML")),
        ("epochs=!!int 3", ("--set epochs: ", "tags are not allowed")),
        ("data.digits=/tmp", ("--set data.digits: ", "--data DIR")),
        ("strategy_options.no=1", ("--set strategy_options.no: ", "no such option", "bucket_mb")),
        ("backend=nccl", ("--set backend: ", "nccl needs GPUs")),
    ],
)
def test_wrong_setting_is_named(setting: str, parts: tuple[str, ...], tmp_path: Path) -> None:
    """The place of the mistake is the setting, not a line."""
    message = refusal(tmp_path, f"{HEAD}{RUN}", settings=[setting])
    assert message.startswith(parts[0])
    assert all(part in message for part in parts), message


def test_only_takes_a_part_of_runs_and_groups(tmp_path: Path) -> None:
    """Groups keep what is left; one without runs is left out; a glob without a run is an error."""
    text = (
        f"{HEAD}runs: [{{strategy: ddp, ranks: 2}}, {{strategy: single_gpu}}]\n"
        "groups: [{id: a, factor: strategy}, {id: b, factor: seed, runs: [ddp]}]\n"
    )
    sweep = load(tmp_path, text, only=["single*"])
    assert names(sweep) == ["single_gpu"]
    assert [(group.id, group.runs) for group in sweep.groups] == [("a", ("single_gpu",))]
    assert "Did you mean ddp?" in refusal(tmp_path, text, only=["ddpp"])


def test_data_root_of_the_command_line_then_the_environment_then_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--data` and HPCBENCH_DATA are roots; the sweep may say where below, or where without a root."""
    monkeypatch.delenv("HPCBENCH_DATA", raising=False)
    monkeypatch.setenv("ELSEWHERE", "/else")

    def folder(text: str, data_root: str | None = None) -> str:
        return load(tmp_path, PHOTOS.replace("DATA", text), REAL, data_root=data_root).data["photos"]

    assert folder("$ELSEWHERE/p") == "/else/p"
    assert folder("sub") == str(tmp_path / "sub")
    assert folder("$ELSEWHERE/p", "/root") == "/root/photos"
    assert folder("${HPCBENCH_DATA}/other", "/root") == "/root/other"
    monkeypatch.setenv("HPCBENCH_DATA", "/env")
    assert folder("$HPCBENCH_DATA/other") == "/env/other"
    assert folder("sub") == "/env/photos"
    assert folder("sub", "/root") == "/root/photos"


def test_variable_that_is_not_set_is_an_error_where_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run on that data needs it; one on other data, or with --smoke, does not."""
    monkeypatch.delenv("HPCBENCH_DATA", raising=False)
    text = PHOTOS.replace("DATA", "$HPCBENCH_DATA/p")
    message = refusal(tmp_path, text, REAL)
    assert message.startswith("s.yaml:4: data.photos: the environment variable HPCBENCH_DATA is not set")
    assert load(tmp_path, text, REAL, settings=["dataset=digits"]).data == {}
    assert load(tmp_path, text, REAL, smoke=True).data == {}


def _smoke(folder: Path, text: str, gpus: int = 0, catalog: Catalog = KINDS) -> tuple[RunSpec, RunSpec]:
    """Return the effective run and the declared one."""
    sweep = load(folder, text, catalog, smoke=True, default_gpus_per_node=gpus)
    (run,) = sweep.runs
    return run, sweep.declared[run.run_id]


@pytest.mark.parametrize(
    ("batch", "small"), [(64, 2), (128, 4), (256, 8), (512, 16), (1, 1), (2, 2), (96, 3)]
)
def test_smoke_scales_batches_down(batch: int, small: int, tmp_path: Path) -> None:
    """The declared run stays as it is and names the effective one."""
    run, declared = _smoke(tmp_path, f"{HEAD}{RUN[:-2]}, name: x, batch_size: {batch}, epochs: 50}}\n")
    assert (declared.batch_size, declared.epochs, declared.smoke) == (batch, 50, False)
    assert (run.batch_size, run.epochs, run.steps, run.steps_per_epoch, run.smoke) == (
        small,
        2,
        None,
        2,
        True,
    )
    assert (run.name, run.repeat, run.declared_id) == ("x", 0, declared.run_id)
    assert run.warmup_steps < 2 * 2 and run.run_id != declared.run_id


def test_smoke_puts_a_run_for_gpus_on_the_cpu(tmp_path: Path) -> None:
    """nccl, half precision, eight GPUs on two nodes and a container need none of it."""
    text = (
        "version: 1\nresources: {nodes: 2, gpus_per_node: 4}\ncontainer: {runtime: apptainer, image: i}\n"
        "runs:\n  - {strategy: ddp, backend: nccl, precision: PRECISION, model: resnet18, stem: imagenet,\n"
        "     dataset: synthetic, dataset_options: {image_size: 224, samples: 1000000}, accumulation: 4}\n"
    )
    run, declared = _smoke(tmp_path, text.replace("PRECISION", "amp_fp16"))
    assert (declared.ranks, declared.device, declared.backend) == (8, "cuda", "nccl")
    assert (run.ranks, run.data_shards, run.device, run.backend) == (4, 4, "cpu", "gloo")
    assert (run.precision, run.container.runtime, run.resources.gpus_per_node) == ("amp_bf16", "none", 0)
    assert (run.resources.nodes, run.dataset_options["image_size"]) == (1, 64)
    assert run.global_batch * 4 <= run.dataset_options["samples"] < 1000
    assert run.batch_size % run.accumulation == 0
    assert _smoke(tmp_path, text.replace("PRECISION", "tf32"))[0].precision == "fp32"


def test_smoke_keeps_gpus_where_there_are_enough(tmp_path: Path) -> None:
    """Four ranks need four GPUs; with two the run goes on the CPU."""
    text = f"{ON_TWO_GPUS.replace(': 2', ': 8')}runs: [{{strategy: ddp, precision: amp_fp16}}]\n"
    run, _ = _smoke(tmp_path, text, gpus=4)
    assert (run.ranks, run.device, run.backend, run.precision) == (4, "cuda", "nccl", "amp_fp16")
    assert run.resources.gpus_per_node == 4
    assert _smoke(tmp_path, text, gpus=2)[0].device == "cpu"
    devices, _ = _smoke(tmp_path, text.replace("ddp", "dp"), gpus=4)
    assert (devices.ranks, devices.devices, devices.device) == (1, 4, "cuda")


def test_smoke_runs_what_this_machine_could_not_even_declare(tmp_path: Path) -> None:
    """Without GPUs and without gpus_per_node a run over nccl is taken as one for a node that has them."""
    text = "version: 1\nname: s\nruns: [{strategy: ddp, backend: nccl, precision: amp_fp16}]\n"
    assert "has to set ranks" in refusal(tmp_path, text)
    run, declared = _smoke(tmp_path, text)
    assert (declared.device, declared.ranks, run.device, run.backend) == ("cuda", 2, "cpu", "gloo")


def test_smoke_tells_runs_apart_that_become_the_same(tmp_path: Path) -> None:
    """nccl and gloo are both gloo on a CPU, and still two runs; there is one repeat of each."""
    text = f"{ON_TWO_GPUS}runs: [{BACKENDS}]\ngroups: [{{id: g, factor: backend}}]\n"
    sweep = load(tmp_path, text, smoke=True)
    assert [run.name for run in sweep.runs] == ["ddp_nccl", "ddp_gloo"]
    assert len({run.run_id for run in sweep.runs}) == len(sweep.declared) == 2
    assert sweep.groups[0].runs == ("ddp_nccl", "ddp_gloo")


def test_smoke_lets_a_strategy_scale_its_own_down(tmp_path: Path) -> None:
    """The table entry of a strategy has the last word."""
    entry = dataclasses.replace(
        CATALOG.strategies["ddp"], smoke=lambda run: dataclasses.replace(run, window_steps=1)
    )
    catalog = dataclasses.replace(CATALOG, strategies={"ddp": entry})
    assert _smoke(tmp_path, f"{HEAD}{RUN}", catalog=catalog)[0].window_steps == 1


SINGLE = "{strategy: single_gpu}"
BACKENDS = "{strategy: ddp, grid: {backend: [nccl, gloo]}}"
GRID = "{strategy: ddp, grid: {ranks: [1, 2], epochs: [2, 3]}}"
LIKE_NUMBERS = "{name: '1e5', strategy: single_gpu}, {name: 'null', strategy: noop, ranks: 1}"
GROUP = "groups: [{id: g, title: 'a: \"b\" #é', factor: seed}]\n"
DUMPED: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": (f"{HEAD}{RUN}", {}),
    "grid": (f"{HEAD}runs: [{GRID}, {{strategy: noop, ranks: 1}}]\n", {}),
    "on GPUs": ("version: 1\nruns: [{strategy: ddp}, {strategy: dp}]\n", {"default_gpus_per_node": 3}),
    "repeats": (f"{HEAD}runs: [{{strategy: ddp, ranks: 2, repeats: 2, seed: 4}}, {SINGLE}]\n", {}),
    "settings": (f"{HEAD}{RUN}", {"settings": ["optimizer.lr=1e-9", "resources.time=1-00:00:00"]}),
    "only": (f"{HEAD}runs: [{{strategy: ddp, ranks: 2}}, {SINGLE}]\n", {"only": ["ddp"]}),
    "smoke": (f"{ON_TWO_GPUS}runs: [{BACKENDS}, {SINGLE}]\n", {"smoke": True}),
    "words like numbers": (f"{HEAD}runs: [{LIKE_NUMBERS}]\n", {}),
    "groups and data": (f"{HEAD}data: {{digits: a b/c}}\n{RUN}{GROUP}", {}),
}


@pytest.mark.parametrize("case", DUMPED)
def test_resolved_sweep_loads_again_to_the_same(case: str, tmp_path: Path) -> None:
    """What goes into the results folder is the whole sweep: runs in order, ids, groups, declared runs."""
    text, arguments = DUMPED[case]
    sweep = load(tmp_path, text, KINDS, **arguments)
    again = load_sweep([write(tmp_path, dump_sweep(sweep), "results/sweep.yaml")], KINDS)
    assert dataclasses.replace(again, files=sweep.files) == sweep
    assert [run.run_id for run in again.runs] == [run.run_id for run in sweep.runs]


def test_resolved_sweep_may_be_larger_than_one_that_a_person_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spelled out, a legal grid may take more than the limit of a sweep file, and is read all the same."""
    monkeypatch.setattr(yaml_document, "MAX_BYTES", 5000)
    grid = f"{{seed: {list(range(0, 600, 3))}}}"
    sweep = load(tmp_path, f"{HEAD}runs: [{{strategy: noop, ranks: 1, grid: {grid}}}]\n")
    dumped = dump_sweep(sweep)
    assert len(dumped) > 5000
    assert load_sweep([write(tmp_path, dumped, "sweep.yaml")], CATALOG).runs == sweep.runs
    with pytest.raises(InputError, match="larger than 5,000 bytes"):
        load_sweep([write(tmp_path, f"\n{dumped}", "sweep.yaml")], CATALOG)


def test_single_run_from_settings_alone() -> None:
    """No file at all: the settings are the run."""
    run = load_run(None, CATALOG, settings=["strategy=ddp", "ranks=2", "resources.gpus_per_node=0"])
    assert (run.name, run.strategy, run.ranks, run.repeat) == ("ddp", "ddp", 2, 0)
    with pytest.raises(InputError, match="the command line: strategy: a run needs a strategy"):
        load_run(None, CATALOG)
    with pytest.raises(InputError, match=r"--set ranks: .*one process"):
        load_run(None, CATALOG, settings=["strategy=single_gpu", "ranks=2"])


def test_single_run_from_a_file(tmp_path: Path) -> None:
    """A file has one run's fields; settings lie over it; what belongs to a sweep is refused."""
    path = write(tmp_path, "strategy: ddp\nranks: 2\nepochs: 4\nresources: {gpus_per_node: 0}\n")
    run = load_run(path, CATALOG, settings=["epochs=5"])
    assert (run.epochs, run.ranks) == (5, 2)
    assert load_run(path, CATALOG, smoke=True).epochs == 2
    for text, problem in (
        ("runs: []", "hpcbench submit"),
        ("grid: {}", "hpcbench submit"),
        ("repeats: 2", "no repeats"),
    ):
        path.write_text(f"strategy: single_gpu\n{text}\n")
        with pytest.raises(InputError, match=rf"s\.yaml:2: .*{problem}"):
            load_run(path, CATALOG)


@pytest.mark.parametrize("smoke", [False, True])
def test_single_run_from_a_run_folder(smoke: bool, tmp_path: Path) -> None:
    """A stored spec is read back as it is; settings change what follows too."""
    spec = load(tmp_path, f"{HEAD}{RUN}", smoke=smoke).runs[-1]
    stored = {"run_id": spec.run_id, "spec": spec.to_json(), "declared": None}
    path = write(tmp_path, json.dumps(stored), "spec.json")
    assert load_run(path, CATALOG) == spec
    changed = load_run(path, CATALOG, settings=["ranks=4", "precision=amp_bf16"])
    assert (changed.ranks, changed.data_shards, changed.precision) == (4, 4, "amp_bf16")
    assert (changed.repeat, changed.smoke, changed.name, changed.seed) == (
        spec.repeat,
        smoke,
        spec.name,
        spec.seed,
    )
    path.write_text(json.dumps({**stored, "spec": {**spec.to_json(), "epoch": 3}}))
    with pytest.raises(InputError, match=r"spec\.json:1: spec\.epoch: unknown key .* Did you mean epochs\?"):
        load_run(path, CATALOG)
