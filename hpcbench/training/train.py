"""One rank's training run: put the parts together, train, leave."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from hpcbench.config.spec import Optimizer as OptimizerSpec
from hpcbench.config.spec import RunSpec
from hpcbench.measure.clock import clock_for
from hpcbench.measure.environment import describe_environment
from hpcbench.measure.memory import resident_peak_bytes
from hpcbench.records.events import RunFinished, RunStarted
from hpcbench.strategies import STRATEGIES
from hpcbench.strategies.base import Strategy, World
from hpcbench.training.data import DATASETS
from hpcbench.training.data.base import Dataset, Loader
from hpcbench.training.loop import Training
from hpcbench.training.models import MODELS
from hpcbench.training.plan import Plan
from hpcbench.training.precision import Arithmetic
from hpcbench.training.session import Session
from hpcbench.training.world import barrier, join, leave


def run(session: Session) -> None:
    """Train this rank's part of the run."""
    spec = session.spec
    world = join(spec, session.placement)
    training = assemble(session, world)
    session.record(_run_started(training))
    session.writer.flush()
    barrier(world)
    session.seconds["startup"] = session.age_s()
    training.run()
    if spec.save_weights:
        save_weights(training)
    session.record(_run_finished(training))
    session.writer.sync()
    leave(world)


def assemble(session: Session, world: World) -> Training:
    """Build what a training rank works with, up to the first step."""
    spec = session.spec
    arithmetic = Arithmetic(spec.precision, world.device)
    dataset = load_dataset(spec, world.device, arithmetic.dtype)
    model = build_model(spec, dataset, world.device, arithmetic.dtype)
    entry = STRATEGIES[spec.strategy]
    strategy: Strategy = entry.load()(world, arithmetic, entry.options(**spec.strategy_options))
    strategy.prepare(model, lambda parameters: build_optimizer(spec.optimizer, parameters))
    loader = Loader(dataset, strategy.seat(), spec.batch_size, spec.accumulation, spec.seed)
    plan = Plan.of(spec, dataset.train_samples)
    return Training(session, world, strategy, arithmetic, loader, plan, clock_for(world.device))


def load_dataset(spec: RunSpec, device: torch.device, dtype: torch.dtype) -> Dataset:
    """Return the run's data set on a device."""
    entry = DATASETS[spec.dataset]
    dataset: Dataset = entry.load()(
        device=device,
        dtype=dtype,
        global_batch=spec.global_batch,
        seed=spec.seed,
        options=entry.options(**spec.dataset_options),
    )
    return dataset


def build_model(spec: RunSpec, dataset: Dataset, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Return the model in its initial state, which depends on the seed alone."""
    torch.manual_seed(spec.seed)
    model: nn.Module = MODELS[spec.model].load()(
        channels=dataset.channels, classes=dataset.classes, stem=spec.stem
    )
    return model.to(device, dtype)


def build_optimizer(spec: OptimizerSpec, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the run's optimizer over some parameters."""
    return torch.optim.SGD(
        parameters,
        lr=spec.lr,
        momentum=spec.momentum,
        weight_decay=spec.weight_decay,
        nesterov=spec.nesterov,
    )


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
    parameters = list(training.strategy.model.parameters())
    return RunStarted(
        spec=session.spec.to_json(),
        declared=session.declared,
        environment={**describe_environment(), **describe_torch(training.world.device)},
        processes=session.placement.processes,
        process_start_ns=session.placement.process_start_ns,
        parameters=sum(p.numel() for p in parameters),
        parameter_bytes=sum(p.numel() * p.element_size() for p in parameters),
        steps_per_epoch=plan.steps_per_epoch,
        total_steps=plan.total_steps,
        train_samples=training.loader.dataset.train_samples,
        evaluation_samples=training.loader.dataset.evaluation_samples,
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
    named = {part: session.seconds.get(part, 0.0) for part in ("startup", "train", "evaluation", "check")}
    wall_s = session.age_s()
    return RunFinished(
        wall_s=wall_s,
        startup_s=named["startup"],
        train_s=named["train"],
        evaluation_s=named["evaluation"],
        check_s=named["check"],
        checkpoint_s=0.0,
        other_s=wall_s - sum(named.values()),
        steps=training.plan.total_steps,
        samples=training.plan.total_steps * session.spec.batch_size,
        peak_memory_bytes=max(training.peak_memory_bytes, resident_peak_bytes())
        if training.world.device.type == "cpu"
        else training.peak_memory_bytes,
    )
