"""The run of one training rank: builds data set, model, optimizer and strategy, trains, and writes the
last records.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import nn

from hpcbench.runs.events import RunFinished, RunStarted
from hpcbench.runs.placement import Placement
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
from hpcbench.training.loop import TrainedParameters, Training
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
    session.record(_run_started(training))
    done = resume_from_checkpoint(training)
    training.plan = training.plan.going_on(done)
    session.writer.flush()
    barrier(world)
    training.loader.dataset.everyone_is_ready()
    session.seconds["startup"] = session.age_s()
    try:
        training.run(done)
    except StopRequestedError:
        dismiss_servers(world, interrupted=True)
        raise
    record_peak_memory(training)  # what comes now needs memory of its own
    if spec.save_weights:
        save_weights(training)  # before steps that may fail, and have nothing to do with them
    if spec.measure_exchange:
        make_optimizer = partial(build_optimizer, spec.optimizer)
        example = example_batch(training.loader.dataset, spec)
        measure_exchange(training, partial(make_strategy, spec, world), make_optimizer, example)
    training.loader.dataset.close()
    session.record(_run_finished(training))
    session.writer.sync()
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
    trained = TrainedParameters.of(model)
    strategy.rehearse(model, example_batch(dataset, spec))
    if spec.compile:
        model.compile()  # in place: the names of the weights stay those of a single device
    strategy.prepare(model, partial(build_optimizer, spec.optimizer))
    loader = ShardLoader(dataset, strategy.seat(), spec.batch_size, spec.accumulation, spec.seed)
    plan = StepPlan.of(spec, dataset.train_samples)
    return Training(session, world, strategy, arithmetic, loader, plan, clock_for(world.device), trained)


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
        every = list(parameters)
        spared = {"params": [each for each in every if each.ndim <= 1], "weight_decay": 0.0}
        groups = [
            group
            for group in ({"params": [each for each in every if each.ndim > 1]}, spared)
            if group["params"]
        ]
    return torch.optim.SGD(
        groups,
        lr=spec.lr,
        momentum=spec.momentum,
        weight_decay=spec.weight_decay,
        nesterov=spec.nesterov,
    )


def record_peak_memory(training: Training) -> None:
    """Take into account what a rank on a CPU has needed outside its windows."""
    if training.world.device.type == "cpu":
        training.peak_memory_bytes = max(training.peak_memory_bytes, resident_peak_bytes())


def save_weights(training: Training) -> None:
    """Write the whole model; every rank takes part where its parts are spread, rank 0 writes."""
    weights = {name: value.cpu() for name, value in training.strategy.weights().items()}
    if training.world.rank == 0:
        path = training.session.folder.weights
        temporary = path.with_suffix(".tmp")
        torch.save(weights, temporary)
        temporary.replace(path)


def _run_started(training: Training) -> RunStarted:
    session, plan = training.session, training.plan
    return RunStarted(
        spec=session.spec.to_json(),
        declared=session.declared,
        environment={**describe_environment(), **describe_torch(training.world.device)},
        processes=session.placement.processes,
        process_start_ns=session.placement.process_start_ns,
        parameters=training.trained.numbers,
        parameter_bytes=training.trained.size_bytes,
        steps_per_epoch=plan.steps_per_epoch,
        total_steps=plan.total_steps,
        train_samples=training.loader.dataset.train_samples,
        evaluation_samples=training.loader.dataset.evaluation_samples,
        emulated=training.strategy.emulated,
        warnings=session.placement.warnings,
    )


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


def _run_finished(training: Training) -> RunFinished:
    session = training.session
    parts = ("startup", "train", "evaluation", "check", "checkpoint")
    named = {part: session.seconds.get(part, 0.0) for part in parts}
    wall_s = session.age_s()
    return RunFinished(
        wall_s=wall_s,
        startup_s=named["startup"],
        train_s=named["train"],
        evaluation_s=named["evaluation"],
        check_s=named["check"],
        checkpoint_s=named["checkpoint"],
        other_s=wall_s - sum(named.values()),
        steps=training.plan.total_steps,
        samples=training.samples,
        peak_memory_bytes=training.peak_memory_bytes,
    )
