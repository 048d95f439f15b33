"""One process of a probe: measures, together with the others, the ceilings of some runs and writes them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from hpcbench.ceilings.ceiling_records import (
    Ceiling,
    ComputeCeiling,
    CopyCheck,
    InputCeiling,
    LinkCeiling,
    MatrixCeiling,
    TransferCeiling,
    append_ceiling_lines,
    ceiling_line,
)
from hpcbench.ceilings.measurement_points import (
    ComputePoint,
    InputPoint,
    LinkPoint,
    MatrixPoint,
    compute_points,
    input_points,
    link_points,
    matrix_points,
)
from hpcbench.ceilings.probe import node_measurements as device_ceilings
from hpcbench.ceilings.probe.link_measurement import device_synchroniser, message_sizes_up_to, time_link
from hpcbench.ceilings.probe.node_measurements import (
    LoaderFeed,
    LocalTrainer,
    count_flop,
    time_loader_alone,
    time_model_alone,
)
from hpcbench.ceilings.probe.probe_team import ProbeLocation, ProbeTeam
from hpcbench.runs.run_environment import describe_environment
from hpcbench.strategies.strategy_base import Strategy
from hpcbench.strategies.world import World
from hpcbench.sweep.run_spec import InputOptions, RunSpec
from hpcbench.tasks.batches import Batch, LabelledDataset, Shard, ShardLoader
from hpcbench.tasks.in_memory_datasets import ROTATING_BATCHES
from hpcbench.training.loop import ModelParameters
from hpcbench.training.measurement import WindowTimes
from hpcbench.training.precision import RunPrecision
from hpcbench.training.process_group import join_process_group, leave_process_group
from hpcbench.training.session import RankSession
from hpcbench.training.training_run import (
    build_model,
    build_optimizer,
    describe_torch,
    example_batch,
    load_dataset,
)


def run_probe_rank(session: RankSession) -> None:
    """Measure this process's part."""
    specs = [RunSpec.from_json(values) for values in json.loads(session.folder.probe.read_text())]
    world = join_process_group(session.spec, session.placement)
    environment = {**describe_environment(), **describe_torch(world.device)}
    session.record_start(environment)
    place = ProbeLocation(session.placement.node, session.placement.local_rank)
    team = ProbeTeam.meet(world.rank, world.size, place, world.device)
    # torch imports its compiler with the first optimizer, for seconds: here by all processes at once.
    torch.optim.SGD([torch.zeros(1)])
    session.seconds["startup"] = session.age_s()
    _ProbeRank(session, team, str(environment["hostname"]), str(environment["device"])).measure(specs)
    session.record_finish()
    leave_process_group(world)


@dataclass(frozen=True)
class _TimedModel:
    """A model, the operations of one of its steps, and its fastest window."""

    trained: ModelParameters
    flop: int
    times: WindowTimes


@dataclass
class _ProbeRank:
    """What one process measures, and writes where it leads its node."""

    session: RankSession
    team: ProbeTeam
    host: str
    device: str
    _datasets: dict[str, LabelledDataset] = field(default_factory=dict)
    _sizes: dict[Hashable, int] = field(default_factory=dict)

    def measure(self, specs: Sequence[RunSpec]) -> None:
        """Measure all that the runs need, each thing once; what is found is written at once."""
        for point, largest_bytes in self._links(specs).items():
            self._measure_link(point, largest_bytes)
        for matrix in dict.fromkeys(point for spec in specs for point in matrix_points(spec)):
            self._measure_matrix(matrix)
        self._measure_copies()
        computes = {point: spec for spec in specs for point in compute_points(spec)}
        seen = {compute: self._time_compute(compute, spec) for compute, spec in computes.items()}
        inputs = {point: spec for spec in specs for point in input_points(spec)}
        for loading, spec in inputs.items():
            self._measure_input(loading, spec)
        # Once more, seconds later: what slowed a device down for a moment is no ceiling.
        for compute, spec in computes.items():
            self._write_compute(compute, seen[compute], self._time_compute(compute, spec))
        for dataset in self._datasets.values():
            dataset.close()

    def _write(self, ceiling: Ceiling) -> None:
        if self.team.leads:
            place = self.session.placement
            path = self.session.folder.measured(place.attempt, place.node)
            append_ceiling_lines(path, [ceiling_line(ceiling, self.host)])

    def _dataset(self, spec: RunSpec) -> LabelledDataset:
        """Return the data set of a run, without its cache: for the shape of its images."""
        key = repr((spec.dataset, spec.dataset_options, spec.precision == "fp64", spec.channels_last))
        if key not in self._datasets:
            plain = replace(spec, cache="none", input=InputOptions(workers=0))
            dtype = RunPrecision(spec.precision, self.team.device).dtype
            self._datasets[key] = load_dataset(plain, self.team.device, dtype, self.session.placement)
        return self._datasets[key]

    def _links(self, specs: Sequence[RunSpec]) -> dict[LinkPoint, int]:
        """Return the links to measure, each up to the largest model that it carries."""
        found: dict[LinkPoint, int] = {}
        for spec in specs:
            for point in link_points(spec):
                found[point] = max(found.get(point, 0), self._size_bytes(spec))
        return found

    def _size_bytes(self, spec: RunSpec) -> int:
        """Return the bytes of a run's parameters; the model is built once for all runs that have it."""
        dataset, dtype = self._dataset(spec), RunPrecision(spec.precision, self.team.device).dtype
        key = (spec.model, spec.stem, dataset.channels, dataset.classes, dtype)
        if key not in self._sizes:
            model = build_model(spec, dataset, torch.device("cpu"), dtype)
            self._sizes[key] = ModelParameters.of(model).size_bytes
        return self._sizes[key]

    def _measure_link(self, point: LinkPoint, largest_bytes: int) -> None:
        members = self.team.members(point.ranks, point.nodes)
        for operation, seconds in time_link(self.team, members, point.backend, largest_bytes).items():
            if self.team.rank == 0:
                sizes = message_sizes_up_to(largest_bytes)
                self._write(
                    LinkCeiling(
                        device=self.device,
                        operation=operation,
                        size_bytes=sizes,
                        seconds=seconds,
                        **vars(point),
                    )
                )

    def _measure_matrix(self, point: MatrixPoint) -> None:
        rate = device_ceilings.matrix_rate(self.team, point.precision, point.ranks)
        self._write(MatrixCeiling(device=self.device, flop_per_s=rate, **vars(point)))

    def _measure_copies(self) -> None:
        if self.team.device.type == "cuda" and self.team.leads:
            for pinned in (True, False):
                sizes, seconds = device_ceilings.copy_times(self.team.device, pinned=pinned)
                self._write(
                    TransferCeiling(device=self.device, pinned=pinned, size_bytes=sizes, seconds=seconds)
                )
            pairs, broken = device_ceilings.check_copies()
            if pairs:
                self._write(CopyCheck(device=self.device, pairs=pairs, broken=broken))
        self.team.barrier()

    def _time_compute(self, point: ComputePoint, spec: RunSpec) -> _TimedModel | None:
        """Train alone, or with as many processes at once as the point has; None where this one rests."""
        spec = replace(spec, batch_size=point.batch, accumulation=point.accumulation)
        dataset = self._dataset(spec)
        trainer, trained, flop = None, None, 0
        if self.team.works(point.ranks):
            torch.manual_seed(spec.seed)
            arithmetic = RunPrecision(spec.precision, self.team.device)
            model = build_model(spec, dataset, self.team.device, arithmetic.dtype)
            trained = ModelParameters.of(model)
            trainer = _trainer(spec, model, dataset, arithmetic, self.team.device)
            if self.team.leads:
                flop = count_flop(trainer)
            if spec.compile:
                model.compile()
        times = time_model_alone(self.team, trainer)
        return _TimedModel(trained, flop, times) if trained else None

    def _write_compute(self, point: ComputePoint, *timed: _TimedModel | None) -> None:
        """Write the fastest of what was timed at one point."""
        known = [one for one in timed if one]
        if not known:
            return
        fastest = min(known, key=lambda one: statistics.fmean(one.times.step_s))
        trained, times, steps = fastest.trained, fastest.times, len(fastest.times.step_s)
        self._write(
            ComputeCeiling(
                device=self.device,
                images_per_s=point.batch * steps / times.wall_s,
                step_s=times.step_s,
                forward_backward_s=times.phase_s["forward_backward"] / steps,
                update_s=times.phase_s["update"] / steps,
                flop_per_image=fastest.flop // point.batch,
                parameters=trained.count,
                parameter_bytes=trained.size_bytes,
                parameter_tensors=len(trained.names),
                **vars(point),
            )
        )

    def _measure_input(self, point: InputPoint, spec: RunSpec) -> None:
        feed, dataset, workers = None, None, 0
        if self.team.works(point.ranks):
            dtype = RunPrecision(spec.precision, self.team.device).dtype
            dataset = load_dataset(spec, self.team.device, dtype, self.session.placement)
            workers = dataset.workers if point.workers is None else point.workers
            feed = _loader_share(spec, dataset, point.ranks, self.team)
        self.team.barrier()
        if dataset:
            dataset.all_ranks_loaded()
        steps, seconds = time_loader_alone(self.team, feed)
        if dataset:
            dataset.close()
        rate = point.ranks * steps * point.batch / seconds
        self._write(
            InputCeiling(device=self.device, images_per_s=rate, **{**vars(point), "workers": workers})
        )


def _trainer(
    spec: RunSpec,
    model: torch.nn.Module,
    dataset: LabelledDataset,
    arithmetic: RunPrecision,
    device: torch.device,
) -> LocalTrainer[list[Batch]]:
    """Return a single device's training, whatever the run's strategy is.

    The learning rate is 0: the work is the same, and random data can't make the weights grow beyond bounds.
    """
    world = World(rank=0, size=1, training_ranks=1, device=device)
    strategy = Strategy(world, arithmetic, None)
    strategy.label_smoothing = spec.label_smoothing
    strategy.prepare(model, partial(build_optimizer, spec.optimizer))
    shape = example_batch(dataset, spec).images.shape[1:]
    batches = list(_random_batches(spec, shape, dataset.classes, arithmetic.dtype, device))
    return LocalTrainer(batches, strategy.forward_backward, lambda: strategy.update(0.0))


def _random_batches(
    spec: RunSpec, shape: torch.Size, classes: int, dtype: torch.dtype, device: torch.device
) -> Iterator[list[Batch]]:
    layout = torch.channels_last if spec.channels_last else torch.contiguous_format
    for _ in range(ROTATING_BATCHES):
        images = torch.randn(spec.batch_size, *shape, device=device, dtype=dtype)
        labels = torch.randint(classes, (spec.batch_size,), device=device)
        parts = zip(images.chunk(spec.accumulation), labels.chunk(spec.accumulation), strict=True)
        yield [Batch(part.contiguous(memory_format=layout), right) for part, right in parts]


def _loader_share(spec: RunSpec, dataset: LabelledDataset, ranks: int, team: ProbeTeam) -> LoaderFeed:
    """Return this rank's share of an epoch, as in a run whose ranks are all on this node."""
    shard = Shard(index=team.place.local_rank, count=ranks)
    loader = ShardLoader(dataset, shard, spec.batch_size, spec.accumulation, spec.seed)
    steps = max(1, dataset.train_samples // (spec.batch_size * ranks))
    return LoaderFeed(steps, lambda indices: loader.train(0, indices), device_synchroniser(team.device))
