"""What a sweep may say of recipe and input, and what follows from it while training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hpcbench.errors import InputError
from hpcbench.runs.results_folder import RunFolder
from hpcbench.strategies.strategy_base import Strategy
from hpcbench.strategies.world import World
from hpcbench.sweep.run_spec import Optimizer, RunSpec
from hpcbench.tasks.batches import Batch
from hpcbench.tasks.shared_folders import STAGE_PREFIX, stage_data
from hpcbench.tasks.smoke_data import make_smoke_data
from hpcbench.tasks.task_registry import DATASETS
from hpcbench.training.precision import RunPrecision
from hpcbench.training.session import find_out_of_memory
from hpcbench.training.step_plan import StepPlan, learning_rate
from hpcbench.training.training_run import build_optimizer
from tests.data.conftest import Load, images_of, place, spec_of

CPU = torch.device("cpu")


def test_weight_decay_may_spare_norm_and_bias() -> None:
    """With `weight_decay_on_norm: false` only matrices and kernels are decayed; else everything is."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    spared = build_optimizer(Optimizer(weight_decay_on_norm=False, weight_decay=0.1), model.parameters())
    decays = {
        id(parameter): group["weight_decay"] for group in spared.param_groups for parameter in group["params"]
    }
    named = {name: decays[id(parameter)] for name, parameter in model.named_parameters()}
    assert {name for name, decay in named.items() if decay == 0.1} == {"0.weight", "3.weight"}
    assert {name for name, decay in named.items() if decay == 0.0} == {
        "0.bias", "1.weight", "1.bias", "3.bias",
    }  # fmt: skip
    (group,) = build_optimizer(Optimizer(weight_decay=0.1), model.parameters()).param_groups
    assert group["weight_decay"] == 0.1


def test_model_of_matrices_alone_needs_no_second_group() -> None:
    """Nothing to spare makes no empty group, which torch would refuse."""
    parameters = [nn.Parameter(torch.ones(2, 2))]
    assert len(build_optimizer(Optimizer(weight_decay_on_norm=False), parameters).param_groups) == 1


def test_learning_rate_scales_only_if_the_sweep_says_so() -> None:
    """`lr_batch` is the global batch that `lr` is meant for; without it the batch changes nothing."""
    plan = StepPlan(steps_per_epoch=10, total_steps=10, warmup_steps=0, window_steps=1)
    spec = RunSpec(name="n", strategy="ddp", batch_size=64, data_shards=8, optimizer=Optimizer(lr=0.1))
    assert learning_rate(spec, plan, 0) == 0.1
    scaled = replace(spec, optimizer=Optimizer(lr=0.1, lr_batch=256))
    assert learning_rate(scaled, plan, 0) == pytest.approx(0.2)


def test_label_smoothing_is_of_training_alone() -> None:
    """The training loss is that of smoothed labels, the evaluation's the plain one."""
    strategy = Strategy(World(0, 1, 1, CPU), RunPrecision("fp32", CPU), None)
    strategy.label_smoothing = 0.1
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    strategy.prepare(model, lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    batch = Batch(torch.randn(6, 3, 2, 2), torch.arange(6) % 5)
    trained = strategy.forward_backward([batch])
    judged = strategy.evaluate(batch, torch.ones(6, dtype=torch.bool))
    assert trained is not None
    assert judged is not None
    logits = model(batch.images)
    smooth = nn.functional.cross_entropy(logits, batch.labels, reduction="sum", label_smoothing=0.1)
    plain = nn.functional.cross_entropy(logits, batch.labels, reduction="sum")
    assert trained.loss_sum == pytest.approx(smooth.item(), rel=1e-5)
    assert judged.loss_sum == pytest.approx(plain.item(), rel=1e-5)


def test_bf16_autocast_works_on_a_cpu() -> None:
    """amp_bf16 computes in bfloat16 and keeps weights and gradients in float32."""
    strategy = Strategy(World(0, 1, 1, CPU), RunPrecision("amp_bf16", CPU), None)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5))
    seen: list[torch.dtype] = []
    model[0].register_forward_hook(lambda module, arguments, output: seen.append(output.dtype))
    strategy.prepare(model, lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    strategy.forward_backward([Batch(torch.randn(2, 3, 8, 8), torch.tensor([0, 1]))])
    assert seen == [torch.bfloat16]
    assert {parameter.grad.dtype for parameter in model.parameters() if parameter.grad is not None} == {
        torch.float32
    }


@pytest.mark.parametrize(
    ("name", "fields", "reason"),
    [
        ("imagenet", {"cache": "memory"}, r"cache: memory needs images of one size.*decoded_size"),
        ("imagenet", {"cache": "device"}, r"cache: device needs images of one size"),
        ("imagefolder", {"disk_cache": True}, r"input\.disk_cache needs images of one size"),
        ("imagenet", {"options": {"decoded_size": 100}}, r"decoded_size 100 is smaller than image_size 224"),
        ("cifar10", {"disk_cache": True}, r"for data sets of encoded pictures"),
        ("cifar10", {"cache": "memory"}, None),
        ("imagenet", {"options": {"decoded_size": 256}, "cache": "device"}, None),
    ],
)
def test_impossible_inputs_are_refused_with_a_reason(
    name: str, fields: dict[str, Any], reason: str | None
) -> None:
    """What a data set can't do is said before anything is queued, with what to say instead."""
    import re

    found = DATASETS[name].check(spec_of(name, **fields))
    assert (found is None) if reason is None else re.search(reason, found or "")


def test_input_is_no_part_of_what_is_learnt() -> None:
    """Workers, staging, compilation and memory format rank together; the image size does not."""
    base = spec_of("imagenet")
    for other in (
        spec_of("imagenet", workers=5),
        spec_of("imagenet", stage="/local"),
        spec_of("imagenet", channels_last=True, compile=True),
    ):
        assert other.recipe == base.recipe
        assert other.run_id != base.run_id
    for fields in ({"options": {"image_size": 96}}, {"label_smoothing": 0.1}):
        assert spec_of("imagenet", **fields).recipe != base.recipe
    again = RunSpec.from_json(json.loads(json.dumps(base.to_json())))
    assert again == base


def test_staged_data_is_used_and_removed(generated: Path, tmp_path: Path, load: Load) -> None:
    """A run reads the copy on the node's own disk; who comes last takes it away."""
    fast = tmp_path / "fast"
    plain = load("cifar100", generated / "cifar100")
    ranks = [load("cifar100", generated / "cifar100", stage=str(fast), rank=rank) for rank in range(2)]
    (copy,) = (each for each in fast.iterdir() if each.is_dir())
    assert copy.name.startswith(f"{STAGE_PREFIX}cifar100")
    assert torch.equal(images_of(ranks[0], 0), images_of(plain, 0))
    ranks[0].close()
    assert copy.exists()
    ranks[1].close()
    assert list(fast.iterdir()) == []


def test_archive_is_unpacked_while_staging(generated: Path, tmp_path: Path, load: Load) -> None:
    """CIFAR's archive as distributed is enough where a stage folder is given."""
    packed = tmp_path / "packed"
    packed.mkdir()
    with tarfile.open(packed / "cifar-100-python.tar.gz", "w:gz") as archive:
        for each in (generated / "cifar100").iterdir():
            archive.add(each, each.name)
    with pytest.raises(InputError, match=r"Unpack it: tar -xzf .*cifar-100-python\.tar\.gz"):
        load("cifar100", packed)
    staged = load("cifar100", packed, stage=str(tmp_path / "fast"))
    assert torch.equal(images_of(staged, 0), images_of(load("cifar100", generated / "cifar100"), 0))


def test_staging_checks_the_space_first(generated: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Nothing is copied where not everything fits; the message has both sizes."""
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 5000}))
    with pytest.raises(InputError, match=r"fast: the data set needs [0-9,]+ bytes and 5,000 are free"):
        stage_data(generated / "cifar100", tmp_path / "fast")
    assert not any(each.is_dir() for each in (tmp_path / "fast").iterdir())


def test_staging_removes_what_a_killed_run_has_left(generated: Path, tmp_path: Path) -> None:
    """A copy that nobody holds any more makes room for the next one."""
    program = "import sys,os,signal; from pathlib import Path; from hpcbench.tasks.shared_folders import stage_data; stage_data(Path(sys.argv[1]), Path(sys.argv[2])); os.kill(os.getpid(), signal.SIGKILL)"  # fmt: skip  # noqa: E501
    subprocess.run([sys.executable, "-c", program, str(generated / "cifar10"), str(tmp_path)], check=False)
    assert [
        each.name.startswith(f"{STAGE_PREFIX}cifar10-") for each in tmp_path.iterdir() if each.is_dir()
    ] == [True]
    shared = stage_data(generated / "cifar100", tmp_path)
    assert [each.name for each in tmp_path.iterdir() if each.is_dir()] == [shared.path.name]
    shared.release()


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has ..."), 5 * 2**29),
        (RuntimeError("CUDA error: out of memory"), None),
        (MemoryError("cache in memory: decoded images of 1,234 bytes do not fit: /dev/shm has 3 free"), 1234),
    ],
)
def test_running_out_of_memory_is_recognised(error: Exception, asked: int | None) -> None:
    """Whoever reports it, it is a memory limit, with the size that was asked for where that is said."""
    found = find_out_of_memory(error)
    assert found is not None
    assert found.asked_bytes == asked


def test_real_allocations_that_fail_are_recognised() -> None:
    """torch on a CPU and numpy raise other types: both are understood, with their sizes."""
    wanted = 2**50
    for allocate in (lambda: torch.empty(wanted, dtype=torch.uint8), lambda: np.zeros(wanted, np.uint8)):
        with pytest.raises((RuntimeError, MemoryError)) as got:
            allocate()
        found = find_out_of_memory(got.value)
        assert found is not None
        assert found.asked_bytes == wanted
    assert find_out_of_memory(ValueError("CUDA out of memory")) is None
    assert find_out_of_memory(RuntimeError("something else")) is None


def _train(tmp_path: Path, spec: RunSpec, data: Path | None) -> tuple[int, list[dict[str, Any]]]:
    """Run a single rank as a supervisor would; return its exit status and its record."""
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.spec.write_text(json.dumps({"spec": spec.to_json(), "declared": None}))
    where = replace(place(folder.path, data or tmp_path), data=str(data) if data else None)
    done = subprocess.run(
        [sys.executable, "-m", "hpcbench.training.worker"],
        env={**os.environ, **where.to_environment()},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = folder.events(1, 0).read_text().splitlines()
    assert "Traceback" not in done.stdout
    return done.returncode, [json.loads(line) for line in lines]


def test_run_on_pictures_trains_and_counts_what_it_replaced(generated: Path, tmp_path: Path) -> None:
    """A whole run: folders, workers, a corrupt picture, channels_last, smoothing; the record has it all."""
    data = tmp_path / "data"
    make_smoke_data("imagenet", data, train_samples=64, evaluation_samples=16)
    min(data.glob("train/*/*")).write_text("no picture")
    spec = spec_of(
        "imagenet",
        options={"image_size": 32, "corrupt": "replace"},
        workers=1,
        batch_size=16,
        epochs=2,
        channels_last=True,
        label_smoothing=0.1,
        precision="amp_bf16",
        accumulation=2,
    )
    status, record = _train(tmp_path, spec, data)
    assert status == 0, record[-1]
    epochs = [line for line in record if line["event"] == "epoch"]
    assert [line["replaced_samples"] for line in epochs] == [1, 1]
    assert sum(line["samples"] for line in record if line["event"] == "evaluation") == 2 * 16
    assert record[-1]["event"] == "run_finished"


def test_run_without_its_data_fails_before_torch_is_loaded(tmp_path: Path) -> None:
    """Missing data is found in the first second and named, not after the ranks have met."""
    spec = spec_of("cifar100", epochs=1)
    status, record = _train(tmp_path, spec, tmp_path / "nowhere")
    assert status == 1
    assert [line["event"] for line in record] == ["run_failed"]
    assert f"{tmp_path / 'nowhere'}: the train files of cifar100 are not here" in record[0]["reason"]


def test_run_that_needs_too_much_memory_says_how_much(tmp_path: Path) -> None:
    """A batch that can't be allocated is a memory limit, with the size that was asked for."""
    options = {"channels": 16, "image_size": 2048, "samples": 10**9}
    spec = spec_of("synthetic", options=options, batch_size=10**6, epochs=1)
    status, record = _train(tmp_path, spec, None)
    assert status == 1
    assert record[-1]["limit"] == "memory"
    assert record[-1]["asked_bytes"] > 10**12
