"""The run of one training rank: builds data set, model, optimizer and strategy, trains, and writes the
last records.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import nn

from hpcbench.runs.placement import Placement
from hpcbench.runs.record_writer import atomic_file
from hpcbench.runs.run_environment import describe_environment
from hpcbench.strategies.strategy_base import Strategy
from hpcbench.strategies.strategy_registry import STRATEGIES
from hpcbench.strategies.world import World
from hpcbench.sweep.run_spec import Optimizer as OptimizerSpec
from hpcbench.sweep.run_spec import RunSpec
from hpcbench.tasks.batches import Batch, LabelledDataset, ShardLoader
from hpcbench.tasks.image_pipeline import DataContext
from hpcbench.tasks.task_registry import DATASETS, MODELS
from hpcbench.training import server_loop
from hpcbench.training.exchange_ablation import measure_exchange
from hpcbench.training.loop import ModelParameters, Training
from hpcbench.training.measurement import clock_for, resident_peak_bytes
from hpcbench.training.precision import RunPrecision
from hpcbench.training.process_group import barrier, dismiss_servers, join_process_group, leave_process_group
from hpcbench.training.resume import resume_from_checkpoint
from hpcbench.training.session import RankSession, StopRequestedError
from hpcbench.training.step_plan import StepPlan

EXAMPLE_SAMPLES = 8


def run_training_rank(session: RankSession) -> None:
    """Train this rank's part of the run."""
    spec = session.spec
    world = join_process_group(spec, session.placement)
    if world.rank >= world.training_ranks:
        run_server_rank(session, world)
        leave_process_group(world)
        return
    training = assemble_training(session, world)
    dataset = training.loader.dataset
    session.record_start(
        {**describe_environment(), **describe_torch(world.device)},
        parameters=training.parameters.count,
        parameter_bytes=training.parameters.size_bytes,
        steps_per_epoch=training.plan.steps_per_epoch,
        total_steps=training.plan.total_steps,
        train_samples=dataset.train_samples,
        evaluation_samples=dataset.evaluation_samples,
        emulated=training.strategy.emulated,
    )
    epochs_done = resume_from_checkpoint(training)
    training.plan = training.plan.resumed_at(epochs_done)
    session.writer.flush()
    barrier(world)
    dataset.all_ranks_loaded()
    session.seconds["startup"] = session.age_s()
    try:
        training.run(epochs_done)
    except StopRequestedError:
        dismiss_servers(world, interrupted=True)
        raise
    record_peak_memory(training)  # before what needs further memory
    if spec.save_weights:
        save_weights(training)  # before the ablation, which may fail
    if spec.measure_exchange:
        make_optimizer = partial(build_optimizer, spec.optimizer)
        example = example_batch(dataset, spec)
        measure_exchange(training, partial(make_strategy, spec, world), make_optimizer, example)
    dataset.close()
    session.record_finish(
        steps=training.plan.total_steps,
        samples=training.samples,
        peak_memory_bytes=training.peak_memory_bytes,
    )
    dismiss_servers(world, interrupted=False)
    leave_process_group(world)


def run_server_rank(session: RankSession, world: World) -> None:
    """Do this server's part of the run."""
    spec = session.spec
    strategy = make_strategy(spec, world, RunPrecision(spec.precision, world.device))
    environment = {**describe_environment(), **describe_torch(world.device)}
    server_loop.serve_until_end(
        session, world, strategy, partial(build_optimizer, spec.optimizer), environment
    )


def assemble_training(session: RankSession, world: World) -> Training:
    """Build what a training rank works with, up to the first step."""
    spec = session.spec
    arithmetic = RunPrecision(spec.precision, world.device)
    dataset = load_dataset(spec, world.device, arithmetic.dtype, session.placement)
    model = build_model(spec, dataset, world.device, arithmetic.dtype)
    strategy = make_strategy(spec, world, arithmetic)
    parameters = ModelParameters.of(model)
    strategy.measure_example(model, example_batch(dataset, spec))
    if spec.compile:
        model.compile()  # in place: the names of the weights stay those of a single device
    strategy.prepare(model, partial(build_optimizer, spec.optimizer))
    loader = ShardLoader(dataset, strategy.shard(), spec.batch_size, spec.accumulation, spec.seed)
    plan = StepPlan.of(spec, dataset.train_samples)
    return Training(
        session=session,
        world=world,
        strategy=strategy,
        arithmetic=arithmetic,
        loader=loader,
        plan=plan,
        clock=clock_for(world.device),
        parameters=parameters,
    )


def make_strategy(spec: RunSpec, world: World, arithmetic: RunPrecision) -> Strategy:
    """Return this rank's part of the run's strategy."""
    entry = STRATEGIES[spec.strategy]
    strategy: Strategy = entry.load()(world, arithmetic, entry.options(**spec.strategy_options))
    strategy.label_smoothing = spec.label_smoothing
    return strategy


def load_dataset(
    spec: RunSpec, device: torch.device, dtype: torch.dtype, placement: Placement
) -> LabelledDataset:
    """Return the run's data set for a rank."""
    entry = DATASETS[spec.dataset]
    dataset: LabelledDataset = entry.load()(
        device=device,
        dtype=dtype,
        samples_per_step=spec.samples_per_step,
        seed=spec.seed,
        channels_last=spec.channels_last,
        options=entry.options(**spec.dataset_options),
        context=DataContext(spec=spec, placement=placement, device=device, dtype=dtype),
    )
    return dataset


def example_batch(dataset: LabelledDataset, spec: RunSpec) -> Batch:
    """Return a small batch such as the run trains on."""
    return dataset.train_batch(torch.arange(min(EXAMPLE_SAMPLES, spec.batch_size)), epoch=0)


def build_model(
    spec: RunSpec, dataset: LabelledDataset, device: torch.device, dtype: torch.dtype
) -> nn.Module:
    """Return the model in its initial state, which depends on the seed alone."""
    torch.manual_seed(spec.seed)
    model: nn.Module = MODELS[spec.model].load()(
        channels=dataset.channels, classes=dataset.classes, stem=spec.stem
    )
    layout = torch.channels_last if spec.channels_last else torch.preserve_format
    return model.to(device, dtype, memory_format=layout)  # type: ignore[call-overload, no-any-return]


def build_optimizer(spec: OptimizerSpec, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the run's optimizer over some parameters.

    Biases and the parameters of normalisation layers are those of at most one dimension.
    """
    groups: Any = parameters
    if not spec.weight_decay_on_norm:
        all_parameters = list(parameters)
        with_decay = {"params": [p for p in all_parameters if p.ndim > 1]}
        without_decay = {"params": [p for p in all_parameters if p.ndim <= 1], "weight_decay": 0.0}
        groups = [group for group in (with_decay, without_decay) if group["params"]]
    return torch.optim.SGD(
        groups,
        lr=spec.lr,
        momentum=spec.momentum,
        weight_decay=spec.weight_decay,
        nesterov=spec.nesterov,
    )


def record_peak_memory(training: Training) -> None:
    """Include the memory that a rank on a CPU has used outside of its windows."""
    if training.world.device.type == "cpu":
        training.peak_memory_bytes = max(training.peak_memory_bytes, resident_peak_bytes())


def save_weights(training: Training) -> None:
    """Write the whole model: all ranks contribute their parts, rank 0 writes."""
    weights = {name: value.cpu() for name, value in training.strategy.weights().items()}
    if training.world.rank == 0:
        with atomic_file(training.session.folder.weights) as file:
            torch.save(weights, file)


def describe_torch(device: torch.device) -> dict[str, object]:
    """Return what torch alone knows about this rank's device and libraries."""
    facts: dict[str, object] = {"threads": torch.get_num_threads(), "device": "cpu"}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "device": properties.name,
            "device_memory_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return facts
