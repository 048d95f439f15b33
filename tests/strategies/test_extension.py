"""A strategy, a data set and a model of another package work in every command after three entries."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from tests.cluster.helpers import Lab, injected

STRATEGY = '''
"""Data parallelism with one message for all gradients."""

import torch
import torch.distributed as dist

from hpcbench.strategies.strategy_base import ReplicatedStrategy


class OneMessage(ReplicatedStrategy):
    def prepare(self, model, make_optimizer):
        super().prepare(model, make_optimizer)
        self.broadcast_initial_state(model)

    def exchange(self):
        gradients = [parameter.grad for parameter in self.model.parameters()]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat, group=self.world.trainers)
        flat /= self.world.training_ranks
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, mean in zip(gradients, flat.split(sizes), strict=True):
            gradient.copy_(mean.view_as(gradient))
'''

ENTRIES = """
from hpcbench.sweep.catalog_entries import DatasetEntry, ModelEntry, ProcessLayout, StrategyEntry
from hpcbench.sweep.catalog_entries import Traffic, Transfer
from hpcbench.strategies.strategy_registry import STRATEGIES
from hpcbench.strategies.traffic import always, every_step, never, no_stages, no_transfer
from hpcbench.tasks.task_registry import DATASETS, MODELS

STRATEGIES["one_message"] = StrategyEntry(
    target="extra.one_message:OneMessage", processes=ProcessLayout.DATA_PARALLEL, backends=("gloo", "nccl"),
    traffic=lambda spec, model: Traffic(beside=(Transfer("all_reduce", model.parameter_bytes, 1),)),
    is_asynchronous=never, steps_per_exchange=every_step, exchange_after_backward=always,
    waited_transfer=no_transfer, exchange_can_be_left_out=False, is_exact=always, reference_rank=0,
    splits_batch_on_devices=False, stage_turns=no_stages, copies_through_host=never, can_compile=True,
    trains=True,
)
DATASETS["stripes"] = DatasetEntry(
    target="extra.stripes:load_stripes", files="extra.stripes:StripesFiles", channels=1, image_size=4,
    unit="img",
)
MODELS["linear"] = ModelEntry(target="extra.linear:Linear", parameters=17_000)
"""

DATASET = '''
"""Noise with a bright row or column: two classes."""

import numpy as np

from hpcbench.errors import SourcePlace, input_error
from hpcbench.tasks.shared_folders import mark_generated

FILES = {"train": "train.npz", "evaluation": "test.npz"}


def read_part(folder, part):
    path = folder / FILES[part]
    if not path.exists():
        raise input_error(f"the {part} file of stripes is not here", place=SourcePlace(str(path)))
    return np.load(path)


class StripesFiles:
    def __init__(self, name):
        self.name = name

    def inspect(self, folder, part, *, decode=False, skip_non_images=False):
        return len(read_part(folder, part)["labels"]), []

    def download_commands(self, target):
        return [f"stripes-tool --into {target}"]

    def generate(self, folder, train_samples, evaluation_samples):
        generator = np.random.default_rng(0)
        folder.mkdir(parents=True)
        for part, count in (("train", train_samples), ("evaluation", evaluation_samples)):
            images, labels = generator.normal(size=(count, 1, 4, 4)), np.arange(count) % 2
            images[labels == 0, :, 1, :] += 4
            images[labels == 1, :, :, 1] += 4
            np.savez(folder / FILES[part], images=images.astype(np.float32), labels=labels)
        mark_generated(folder, {"train": train_samples, "test": evaluation_samples})


def load_stripes(*, context, device, dtype, **_):
    import torch
    from hpcbench.tasks.batches import Batch, LabelledDataset

    class Stripes(LabelledDataset):
        channels, classes, shuffled = 1, 2, True

        def __init__(self):
            self.parts = {}
            for part in FILES:
                stored = read_part(context.root(), part)
                images = torch.from_numpy(stored["images"]).to(device, dtype)
                self.parts[part] = images, torch.from_numpy(stored["labels"]).to(device)
            self.train_samples = len(self.parts["train"][1])
            self.evaluation_samples = len(self.parts["evaluation"][1])

        def train_batch(self, samples, epoch):
            return Batch(*(values[samples] for values in self.parts["train"]))

        def evaluation_batch(self, samples):
            return Batch(*(values[samples] for values in self.parts["evaluation"]))

    return Stripes()
'''

MODEL = """
from torch import nn


class Linear(nn.Sequential):
    def __init__(self, *, channels, classes, stem=None):
        super().__init__(
            nn.Flatten(), nn.Linear(channels * 16, classes)
        )
"""

SWEEP = """
version: 1
name: sweep
defaults: {dataset: stripes, model: linear, global_batch: 32, epochs: 2}
resources: {gpus_per_node: 0, time: "00:02:00"}
runs:
  - {strategy: one_message, ranks: 2}
  - {strategy: collective, ranks: 2}
  - {strategy: single_gpu}
"""


def test_entries_of_another_package_work_end_to_end(lab: Lab, tmp_path: Path) -> None:
    """They are found missing, generated, trained on by two ranks, checked, compared and ranked."""
    package = tmp_path / "packages" / "extra"
    package.mkdir(parents=True)
    for name, code in (("one_message", STRATEGY), ("stripes", DATASET), ("linear", MODEL)):
        (package / f"{name}.py").write_text(code)
    extended = injected(tmp_path / "packages", ENTRIES)

    missing = lab.run("data", "check", "stripes", "--data", tmp_path, **extended)
    assert missing.returncode == 1
    assert f"stripes-tool --into {tmp_path}/stripes" in missing.stdout

    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(SWEEP)
    folder = tmp_path / "stripes"
    folder.mkdir()
    refused = lab.run("submit", sweep, "--data", tmp_path, **extended)
    assert (
        refused.returncode != 0 and "the train file of stripes is not here" in refused.stderr + refused.stdout
    )
    runs = lab.submit(sweep, "--smoke", **extended)
    assert {run.state for run in runs.values()} == {"done"}, runs

    done = lab.run("collect", lab.results().path, **extended)
    assert done.returncode == 0, done.stderr
    with (lab.results().path / "report" / "ranking.csv").open() as file:
        rows = {row["strategy"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"one_message", "collective", "single_gpu"}
    assert float(rows["one_message"]["best_acc_pct"]) > 90
    audit = json.loads(lab.run("audit", lab.results().path, "--json", **extended).stdout)
    assert "parity-failed" not in {finding["code"] for finding in audit["findings"]}
