"""Honest runs, of any kind, give no error."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcbench.ceilings.ceiling_records import Ceiling
from hpcbench.runs.events import RunFailed, RunFinished
from hpcbench.sweep.run_spec import RunSpec
from tests.audit.judging import errors, findings, group
from tests.audit.written import TRAIN_SAMPLES, alone, run, telemetry, write
from tests.ceilings import written as ceilings

NUMBERS = st.fixed_dictionaries(
    {
        "step_s": st.floats(0.001, 5.0),
        "noise": st.floats(0.0, 0.9),
        "learns": st.floats(0.05, 0.95),
        "repeats": st.integers(1, 2),
    }
)
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "ddp": [{}, {"compression": "fp16"}],
    "collective": [{"exchange": "bucketed"}, {"exchange": "per_parameter"}],
    "ps": [{"mode": "sync"}, {"mode": "async"}],
    "local_sgd": [{"local_steps": 1}, {"local_steps": 8}],
    "fsdp_full": [{}],
}


@st.composite
def several_ranks(draw: st.DrawFn, global_batch: int, shared: dict[str, Any], name: str) -> RunSpec:
    """Return a run over some ranks that divide the global batch."""
    strategy = draw(st.sampled_from(sorted(OPTIONS)))
    ranks = draw(st.sampled_from([n for n in (1, 2, 3, 4) if global_batch % n == 0]))
    return run(
        name,
        strategy=strategy,
        strategy_options=draw(st.sampled_from(OPTIONS[strategy])),
        servers=1 if strategy == "ps" else 0,
        ranks=ranks,
        data_shards=ranks,
        batch_size=global_batch // ranks,
        **shared,
    )


@st.composite
def sweeps(draw: st.DrawFn) -> list[tuple[RunSpec, dict[str, Any]]]:
    """Return honest runs of one class: same recipe, any strategy, speed and number of repeats.

    The global batch hardly ever divides the training set, so that epochs drop a remainder.
    """
    shared = {
        "epochs": draw(st.integers(1, 3)),
        "warmup_steps": draw(st.integers(0, 30)),
        "window_steps": draw(st.integers(1, 40)),
        "precision": draw(st.sampled_from(["fp32", "fp64", "amp_bf16"])),
    }
    global_batch = draw(st.integers(24, TRAIN_SAMPLES // 3))
    specs = [alone("one", batch_size=global_batch, **shared)]
    names = [f"row{number}" for number in range(draw(st.integers(1, 3)))]
    specs += [draw(several_ranks(global_batch, shared, name)) for name in names]
    return [(spec, draw(NUMBERS)) for spec in specs]


def ceilings_of(sweep: list[tuple[RunSpec, dict[str, Any]]], headroom: float) -> list[Ceiling]:
    """Return ceilings of a node on which these runs are possible: each is so much faster alone."""
    found: list[Ceiling] = []
    for spec, story in sweep:
        fastest_s = headroom * story["step_s"] * (1 - story["noise"])
        same = {"precision": spec.precision, "batch": spec.batch_size, "ranks": spec.ranks}
        found.append(ceilings.compute(seconds=fastest_s, **same))
        found.append(ceilings.matrix(precision=spec.precision, ranks=spec.ranks, flop_per_s=1e12 / fastest_s))
        rate = spec.global_batch / fastest_s
        found.append(ceilings.loader(batch=spec.batch_size, ranks=spec.ranks, images_per_s=rate))
        # What a rank waits for in its exchange, 15 % of a step, is more than this.
        speed = 2 * 4 * ceilings.PARAMETERS / (0.15 * fastest_s)
        found += [ceilings.link(name, ranks=max(2, spec.ranks), alpha_s=1e-6, bandwidth=speed)
                  for name in ("all_reduce", "broadcast", "send")]  # fmt: skip
    # Of runs that share a ceiling the fastest one's counts.
    return sorted(found, key=lambda each: -min(getattr(each, "step_s", [0.0])))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sweeps(), st.floats(0.3, 1.0), st.floats(0.0, 0.5))
def test_honest_records_give_no_error(
    sweep: list[tuple[RunSpec, dict[str, Any]]], headroom: float, others: float
) -> None:
    """Whatever strategies, ranks, batches, windows, warm-up, speeds, noise and ceilings: nothing is wrong."""
    step_s = min(story["step_s"] for _, story in sweep)
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "r"
        for spec, story in sweep:
            # One node: rows of equal batch and ranks are as fast as each other.
            told = story | {"step_s": step_s, "telemetry": [telemetry(other_cpu_cores=[others] * 10)]}
            write(results, spec, **told)
        possible = ceilings_of([(spec, story | {"step_s": step_s}) for spec, story in sweep], headroom)
        ceilings.write(results / "ceilings" / "n1.jsonl", possible)
        assert errors(findings(results, [group(*(spec.name for spec, _ in sweep))])) == []


def test_warm_up_remainder_buffers_and_failed_runs_give_no_finding(tmp_path: Path) -> None:
    """Slow first steps, dropped samples, other running statistics, a failed run: all is silent."""
    honest = run("honest", batch_size=50)
    write(tmp_path / "r", honest)
    failed = run("failed", strategy="collective", batch_size=50)
    write(
        tmp_path / "r",
        failed,
        lambda rank, event: RunFailed(reason="broken") if isinstance(event, RunFinished) else event,
    )
    assert TRAIN_SAMPLES % honest.global_batch
    assert findings(tmp_path / "r", [group("honest", "failed")]) == []
