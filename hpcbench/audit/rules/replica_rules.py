"""Rules about replicas: they start equal, stay equal, and learn what one process would."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

from hpcbench.analysis.run_figures import FinishedRepeat, Observation
from hpcbench.audit.audit_findings import AuditRule, FindingScope, Severity
from hpcbench.audit.evidence import RowComparison
from hpcbench.strategies.strategy_registry import find_strategy

PARITY_TOLERANCE = {"fp64": 1e-6, "fp32": 1e-3}
REDUCED_TOLERANCE = 2e-2  # tf32 and mixed precision

Value = TypeVar("Value", bound=Hashable)


def replicas_diverged(repeat: FinishedRepeat) -> Observation | None:
    """Compare the weights of all training ranks after every epoch. Buffers are shard 0's and not compared."""
    for epoch, checks in repeat.history.checks.items():
        different = len({check.weights_checksum for check in checks})
        if epoch > 0 and different > 1:
            return Observation(
                message=f"after epoch {epoch} the {len(checks)} ranks hold {different} different models",
                figures={"epoch": epoch, "models": different, "ranks": len(checks)},
            )
    return None


def initial_state_differs(repeat: FinishedRepeat) -> Observation | None:
    """Compare the weights of all training ranks before the first step."""
    checks = repeat.history.checks.get(0, ())
    different = len({check.weights_checksum for check in checks})
    if different < 2:
        return None
    return Observation(
        message=f"before the first step the {len(checks)} ranks hold {different} different models",
        figures={"models": different, "ranks": len(checks)},
    )


def initial_state_differs_between_runs(comparison: RowComparison) -> Iterable[Observation]:
    """Compare the first weights of runs that learn the same thing from the same seed."""
    alike: dict[Hashable, dict[str, tuple[str, str]]] = defaultdict(dict)
    for row in comparison.rows:
        for repeat in row.repeats:
            start = repeat.history.checks.get(0, ())
            if start and initial_state_differs(repeat) is None:
                key = (repeat.spec.seed, repeat.spec.precision == "fp64")
                alike[key][row.experiment] = (start[0].weights_checksum, row.spec.strategy)
    for (seed, _), found in ((_seed_and_fp64(key), states) for key, states in alike.items()):
        right = _majority_value([(state, strategy) for state, strategy in found.values()])
        for experiment, (state, _) in found.items():
            if state != right:
                yield Observation(
                    row=experiment,
                    message=f"with seed {seed} it starts from other weights than the runs it is ranked with",
                    figures={"seed": seed, "weights_checksum": state, "usual_checksum": right},
                )


def _seed_and_fp64(key: Hashable) -> tuple[int, bool]:
    assert isinstance(key, tuple)
    return key[0], key[1]


def _majority_value(values: Sequence[tuple[Value, str]]) -> Value:
    """Return the value that most (value, strategy) have; of equally frequent ones that of a reference."""
    known = [value for value, _ in values]
    counts = Counter(known)

    def weight(index: int) -> tuple[int, int, int]:
        value, strategy = values[index]
        return counts[value], find_strategy(strategy).reference_rank, -index

    return known[max(range(len(values)), key=weight)]


def parity_failed(comparison: RowComparison) -> Iterable[Observation]:
    """Compare the first losses of synchronous runs that see the same samples in the same shards."""
    alike: dict[Hashable, list[tuple[FinishedRepeat, Sequence[float]]]] = defaultdict(list)
    for row in comparison.rows:
        for repeat in row.repeats:
            if find_strategy(repeat.spec.strategy).is_exact(repeat.spec) and repeat.first_losses:
                alike[_same_arithmetic(repeat)].append((repeat, repeat.first_losses))
    for runs in alike.values():
        yield from _outliers(runs)


def _outliers(runs: Sequence[tuple[FinishedRepeat, Sequence[float]]]) -> Iterable[Observation]:
    # Each run is given the number of the first one that it agrees with.
    labels = [
        next(
            j
            for j, (_, theirs) in enumerate(runs)
            if _largest_difference(losses, theirs) <= _tolerance(repeat)
        )
        for repeat, losses in runs
    ]
    right = _majority_value(
        [(label, run.spec.strategy) for label, (run, _) in zip(labels, runs, strict=True)]
    )
    agreeing = [run for label, run in zip(labels, runs, strict=True) if label == right]
    reference, expected = max(agreeing, key=lambda run: find_strategy(run[0].spec.strategy).reference_rank)
    for label, (repeat, losses) in zip(labels, runs, strict=True):
        distance = _largest_difference(losses, expected)
        if label == right or repeat.experiment == reference.experiment:
            continue
        step = _worst_step(losses, expected)
        yield Observation(
            row=repeat.experiment,
            message=f"with seed {repeat.spec.seed} its loss at step {step} is {losses[step]:.6g}, and that "
            f"of {reference.experiment}, which sees the same samples in the same shards, "
            f"{expected[step]:.6g}",
            figures={"step": step, "loss": losses[step], "reference_loss": expected[step],
                     "reference": reference.experiment, "relative_difference": distance},
        )  # fmt: skip


def stable_steps(first: Sequence[float], second: Sequence[float]) -> int:
    """Return how many first steps of two runs may be held against each other.

    The losses before and after the first update always may: weights were equal to the last bit before it, so
    rounding entered once. A later one may as long as descent has not gone up: where the loss rises above the
    first one, an update is larger than the curvature allows (lr x its largest eigenvalue > 2), and what makes
    the loss grow makes every difference grow, whatever its cause. Seen: two honest runs of ResNet-50 over 6
    images a rank differ by 5e-7 after one update, which triples the loss in the next two, and by 3e-2 then.
    """
    shortest = min(len(first), len(second))
    risen = (step for step in range(1, shortest) if first[step] > first[0] or second[step] > second[0])
    return min(next(risen, shortest) + 1, shortest)


def _worst_step(losses: Sequence[float], expected: Sequence[float]) -> int:
    apart = _relative_differences(losses, expected)
    return apart.index(max(apart))


def _largest_difference(first: Sequence[float], second: Sequence[float]) -> float:
    return max(_relative_differences(first, second))


def _relative_differences(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """Return the relative difference of each step that may be judged."""
    steps = stable_steps(first, second)
    return [abs(a - b) / max(abs(b), 1e-12) for a, b in zip(first[:steps], second[:steps], strict=True)]


def _tolerance(repeat: FinishedRepeat) -> float:
    return PARITY_TOLERANCE.get(repeat.spec.precision, REDUCED_TOLERANCE)


def _same_arithmetic(repeat: FinishedRepeat) -> Hashable:
    spec = repeat.spec
    return spec.seed, spec.precision, spec.data_shards, spec.batch_size, spec.accumulation, spec.cache


REPLICA_RULES = (
    AuditRule(
        code="replicas-diverged",
        severity=Severity.ERROR,
        scope=FindingScope.RUN,
        what="The ranks train different models, so accuracy and loss belong to none of them.",
        when="Checksums of the weights differ between training ranks after an epoch. Buffers, such as the "
        "running statistics of batch normalisation, are not compared.",
        advice="Make parameters equal before the first step (broadcast from rank 0), and give every rank "
        "the same averaged gradient.",
        source="docs/methodology.md, M12; study 1, whose all-reduce never made the initial weights equal",
        of_repeat=replicas_diverged,
    ),
    AuditRule(
        code="initial-state-differs",
        severity=Severity.ERROR,
        scope=FindingScope.RUN,
        what="Training does not start from the state that the comparison assumes.",
        when="Checksums of the weights before the first step differ between the ranks of a run, or "
        "between runs of a class with the same seed (fp64 apart). Of two states that of most runs is "
        "taken for right, then that of ddp or single_gpu.",
        advice="Build the model from the run's seed on every rank and broadcast it from rank 0.",
        source="docs/methodology.md, M12; study 1",
        of_repeat=initial_state_differs,
        of_class=initial_state_differs_between_runs,
    ),
    AuditRule(
        code="parity-failed",
        severity=Severity.ERROR,
        scope=FindingScope.RUN,
        what="A synchronous strategy does not learn what the others learn from the same samples.",
        when="Among runs of a class with the same seed, precision, shards, accumulation and cache, the "
        "mean loss of one of the first 5 steps is off by more than 1e-3 relative (fp64: 1e-6, tf32 and "
        "mixed precision: 2e-2). Once the loss of one of the two has risen above its first, later steps are "
        "not judged: there rounding grows without bound. Asynchronous servers, compression and local steps "
        "promise no parity; dp and pipeline normalise over other pieces of a batch; none of these is judged.",
        advice="Check that gradients are averaged, not summed, over all training ranks, before every update.",
        source="docs/methodology.md, M12",
        of_class=parity_failed,
    ),
)
