"""Runs that break a rule, and runs that do not: what each rule has to see, and what it must not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from hpcbench.ceilings.ceiling_records import Ceiling, CopyCheck
from hpcbench.runs.events import Check, Epoch, Evaluation, RunFinished, Steps
from hpcbench.sweep.run_spec import Group, Optimizer
from tests.audit.judging import group
from tests.audit.written import ENVIRONMENT, Change, alone, changing, run, telemetry, unchanged, write
from tests.ceilings import written as ceilings

Write = Callable[[Path], Sequence[Group] | None]
ROW = "suspect"


def suspect(change: Change, **story: object) -> Write:
    """Return what writes one run of two ranks with a change, beside an honest one of the same class."""

    def written(results: Path) -> None:
        write(results, run("honest"))
        write(results, run(ROW, strategy="collective"), change, **story)

    return written


def counted(factor: float) -> Change:
    """Return a change that counts so many times the samples."""
    return changing(Steps, samples=lambda event: round(event.samples * factor))


def _slow_rank(event: Steps) -> float:
    return 2 * event.forward_backward_s


def _uneven(event: Steps) -> list[float]:
    return [step * (3 if i % 5 == 0 else 1) for i, step in enumerate(event.step_s)]


def two_recipes(results: Path) -> list[Group]:
    """Write a group in which one run alone has no weight decay."""
    write(results, run("honest"))
    write(results, run("other", backend="nccl"))
    write(results, run(ROW, strategy="collective", optimizer=Optimizer(weight_decay=0.0)))
    return [group("honest", "other", ROW)]


def two_batches(results: Path) -> list[Group]:
    """Write study 1's group: 64 samples an update in two rows, 96 in the third."""
    write(results, run("honest"))
    write(results, run("other", strategy="collective"))
    write(results, run(ROW, strategy="ps", ranks=3, data_shards=3))
    return [group("honest", "other", ROW)]


def slow_pair(results: Path) -> None:
    """Write a run on two devices that is slower than one."""
    write(results, alone())
    write(results, run(ROW), step_s=0.05)


def cached(learns: float) -> Write:
    """Return what writes the same run with and without a cache."""

    def written(results: Path) -> None:
        write(results, run("honest"))
        write(results, run(ROW, cache="memory"), learns=learns)

    return written


def beside_one_process(learns: float) -> Write:
    """Return what writes a run beside its class's reference."""

    def written(results: Path) -> None:
        write(results, alone(epochs=8), learns=0.7)
        write(results, run(ROW, epochs=8), learns=learns)

    return written


def served(staleness: list[int]) -> Write:
    """Return what writes a parameter server's run."""

    def written(results: Path) -> None:
        options = {"mode": "async"}
        write(results, run(ROW, strategy="ps", servers=1, strategy_options=options), staleness=staleness)

    return written


def elsewhere(results: Path) -> None:
    """Write a run that had another torch."""
    write(results, run("honest"))
    write(results, run("other", backend="nccl"))
    write(
        results,
        run(ROW, strategy="collective"),
        environment={**ENVIRONMENT, "packages": {"torch": "2.6.0"}},
    )


def held_against(change: Change, *some: Ceiling) -> Write:
    """Return what writes a run with a change beside an honest one, and the ceilings of their node."""

    def written(results: Path) -> None:
        suspect(change)(results)
        ceilings.write(results / "ceilings" / "n1.jsonl", some)

    return written


def with_broken_copies(results: Path) -> None:
    """Write an honest run on a node whose devices cannot copy."""
    write(results, run("honest"))
    check = CopyCheck(device="H200", pairs=["0 1", "1 0"], broken=["1 0"])
    ceilings.write(results / "ceilings" / "n1.jsonl", [check])


# An honest step takes about 20 ms; these are the ceilings of a node that allows it.
NODE = [
    ceilings.compute(seconds=0.012), ceilings.loader(), ceilings.link(), ceilings.link("broadcast"),
    ceilings.matrix(),
]  # fmt: skip
HOT = ["hw_thermal_slowdown"]


def rivals(step_s: float, noise: float) -> Write:
    """Return what writes two runs of much the same or of very different speed."""

    def written(results: Path) -> None:
        write(results, run("honest"), step_s=0.02, noise=0.02)
        write(results, run(ROW, strategy="collective"), step_s=step_s, noise=noise)

    return written


BROKEN: dict[str, Write] = {
    "samples-not-conserved": suspect(counted(4 / 3)),
    "world-size-inflated": suspect(counted(2)),
    "evaluation-incomplete": suspect(changing(Evaluation, 1, samples=170, correct=100)),
    "evaluation-duplicated": suspect(changing(Evaluation, 1, samples=360, correct=300)),
    "time-unaccounted": suspect(
        changing(RunFinished, other_s=2.0, wall_s=lambda event: event.wall_s + 2.0)
    ),
    "timer-not-synchronised": suspect(
        changing(
            Steps, other_s=lambda e: 0.98 * e.wall_s, forward_backward_s=lambda e: 0.01 * e.wall_s,
            data_wait_s=lambda e: 0.01 * e.wall_s, exchange_s=0.0, update_s=0.0,
        )
    ),
    "input-bound": suspect(
        changing(
            Steps, data_wait_s=lambda e: 0.45 * e.wall_s, forward_backward_s=lambda e: 0.3 * e.wall_s
        )
    ),
    "evaluation-dominates": suspect(changing(Epoch, evaluation_s=lambda event: event.train_s)),
    "unstable-steps": suspect(changing(Steps, step_s=_uneven)),
    "straggler-rank": suspect(changing(Steps, 1, forward_backward_s=_slow_rank)),
    "replicas-diverged": suspect(
        changing(Check, 1, weights_checksum=lambda e: "other" if e.epoch else e.weights_checksum)
    ),
    "initial-state-differs": suspect(
        changing(Check, 1, weights_checksum=lambda e: e.weights_checksum if e.epoch else "other")
    ),
    "parity-failed": suspect(changing(Steps, loss_sum=lambda e: [1.01 * loss for loss in e.loss_sum])),
    "recipe-differs": two_recipes,
    "steps-per-epoch-differ": two_batches,
    "slower-than-one-device": slow_pair,
    "cache-changes-learning": cached(learns=0.65),
    "non-finite-loss": suspect(changing(Steps, non_finite=1, loss_sum=lambda e: [None] * e.steps)),
    "amp-steps-skipped": suspect(changing(Steps, skipped_updates=4)),
    "stale-updates": served([0, 1, 2, 1]),
    "converged-too-fast": beside_one_process(learns=0.05),
    "converged-too-slow": beside_one_process(learns=0.9),
    "busy-machine": suspect(unchanged, environment={**ENVIRONMENT, "load_1min": 30.0}),
    # Half the wall time: twice what the devices have ever reached alone.
    "above-ceiling": held_against(changing(Steps, wall_s=lambda e: 0.5 * e.wall_s), *NODE),
    # All-reduces of 96 kB in no time.
    "below-floor": held_against(
        changing(Steps, exchange_s=lambda e: 1e-6 * e.steps, other_s=lambda e: 0.17 * e.wall_s), *NODE
    ),
    "throttled": suspect(unchanged, telemetry=[telemetry(device_throttle=[HOT] * 2 + [[""]] * 8)]),
    "cpu-oversubscribed": suspect(unchanged, warnings=["cpu-oversubscribed"]),
    "environment-differs": elsewhere,
    "emulated": suspect(unchanged, emulated=True),
    "too-few-repeats": suspect(unchanged, repeats=2),
    "difference-not-significant": rivals(0.0201, 0.3),
}  # fmt: skip
CLEAN: dict[str, Write] = {
    "recipe-differs": lambda results: two_recipes(results) and [group("honest", "other")],
    "steps-per-epoch-differ": lambda results: two_batches(results) and [group("honest", "other")],
    "cache-changes-learning": cached(learns=0.4),
    "stale-updates": served([0, 0, 0]),
    "converged-too-fast": beside_one_process(learns=0.7),
    "converged-too-slow": beside_one_process(learns=0.7),
    "difference-not-significant": rivals(0.03, 0.01),
    "above-ceiling": held_against(unchanged, *NODE),
    "below-floor": held_against(unchanged, *NODE),
    "throttled": suspect(
        unchanged, telemetry=[telemetry(device_throttle=[["gpu_idle|applications_clocks_setting"]] * 10)]
    ),
    "busy-machine": suspect(unchanged, telemetry=[telemetry()]),
}
