"""Every number of ranking.csv, computed again from the raw lines by other means."""

from __future__ import annotations

import csv
import json
import math
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special, stats

from hpcbench.report.collection import collect_results
from hpcbench.sweep.run_spec import Resources
from tests.report.records import Story, Sweep, single, spec

Lines = list[list[dict[str, Any]]]


def raw(folder: Path) -> Lines:
    """Return the lines of each rank, as JSON."""
    return [
        [json.loads(line) for line in file.read_text().splitlines()]
        for file in sorted(folder.glob("events.a1.rank*"))
    ]


def of(ranks: Lines, event: str) -> list[list[dict[str, Any]]]:
    """Return the lines of one kind, one list a rank."""
    return [[line for line in lines if line["event"] == event] for lines in ranks]


def recompute(ranks: Lines) -> dict[str, float]:
    """Derive the figures of one repeat with numpy, from arrays (rank, window)."""
    steps = [[line for line in lines if line["counted"]] for lines in of(ranks, "steps")]
    array = {key: np.array([[line[key] for line in lines] for lines in steps]) for key in
             ("samples", "wall_s", "data_wait_s", "exchange_s")}  # fmt: skip
    evaluations = of(ranks, "evaluation")
    correct = np.array([[line["correct"] for line in lines] for lines in evaluations]).sum(axis=0)
    judged = np.array([[line["samples"] for line in lines] for lines in evaluations]).sum(axis=0)
    accuracy = 100 * correct / judged
    epochs = np.array([[e["train_s"] + e["evaluation_s"] for e in lines] for lines in of(ranks, "epoch")])
    peaks = [line["peak_memory_bytes"] for lines in ranks for line in lines if line.get("peak_memory_bytes")]
    return {
        "throughput_samples_s": array["samples"].sum() / array["wall_s"].max(axis=0).sum(),
        "best_acc_pct": accuracy.max(),
        "final_acc_pct": accuracy[-1],
        "epoch_time_s": epochs.max(axis=0).mean(),
        "total_time_s": max(line["wall_s"] for lines in of(ranks, "run_finished") for line in lines),
        "peak_mem_mb": max(peaks) / 1e6,
        "data_wait_pct": 100 * array["data_wait_s"].sum() / array["wall_s"].sum(),
        "exposed_comm_pct": 100 * array["exchange_s"].sum() / array["wall_s"].sum(),
    }


def holm_by_hand(p: dict[tuple[str, str], float]) -> set[tuple[str, str]]:
    """Return the pairs that Holm's procedure rejects at 5 %: step down until one is too large."""
    rejected = set()
    for k, pair in enumerate(sorted(p, key=lambda each: p[each])):
        if p[pair] > 0.05 / (len(p) - k):
            break
        rejected.add(pair)
    return rejected


def test_every_number_of_the_ranking_is_what_the_records_say(tmp_path: Path) -> None:
    """Means, intervals, ranks and all other cells agree with a second computation from the raw lines."""
    sweep = Sweep(tmp_path / "sweep")
    rng = random.Random(7)
    runs = {
        "one": single("one"),
        "three": spec("three", ranks=3, data_shards=3, batch_size=21, resources=Resources(nodes=2)),
        "two": spec("two"),
        "bucketed": spec("bucketed", strategy="collective", precision="amp_bf16", cache="memory"),
    }
    for (name, run), step_s in zip(runs.items(), (0.010, 0.0104, 0.0103, 0.02), strict=True):
        shares = (0.1, 0.5, 0.25, 0.1, 0.05) if name == "bucketed" else (0.02, 0.7, 0.1, 0.1, 0.08)
        sweep.repeats(run, Story(step_s=step_s, noise=0.05, shares=shares, rng=rng))
    report = collect_results([sweep.folder.path]).report
    rows = {row["experiment"]: row for row in csv.DictReader((report / "ranking.csv").open())}
    assert rows.keys() == runs.keys()

    repeats = {n: [recompute(raw(sweep.folder.run(n, k).path)) for k in range(3)] for n in runs}
    for name, run in runs.items():
        row, found = rows[name], repeats[name]
        speeds = [repeat["throughput_samples_s"] for repeat in found]
        low, high = stats.t.interval(0.95, 2, loc=np.mean(speeds), scale=stats.sem(speeds))
        numbers = {
            **{key: np.mean([repeat[key] for repeat in found]) for key in found[0]},
            "peak_mem_mb": max(repeat["peak_mem_mb"] for repeat in found),
            "throughput_ci_low": low,
            "throughput_ci_high": high,
            "throughput_per_device": np.mean(speeds) / run.ranks,
        }
        if name != "bucketed":
            assert row["exposed_comm_pct"] == ""
            del numbers["exposed_comm_pct"]
        assert {key: float(row[key]) for key in numbers} == pytest.approx(numbers, rel=1e-9)
        facts = {
            "strategy": run.strategy, "backend": run.backend or "", "model": "smallconv", "dataset": "digits",
            "batch_per_rank": run.batch_size, "ranks": run.ranks, "devices": run.ranks,
            "nodes": run.resources.nodes, "global_batch": run.batch_size * run.ranks, "cache": run.cache,
            "precision": run.precision, "repeats": 3, "steps_per_epoch": 1437 // (run.batch_size * run.ranks),
            "limit": "", "trusted": "yes",
        }  # fmt: skip
        assert {key: row[key] for key in facts} == {key: str(value) for key, value in facts.items()}

    classes = defaultdict(list)
    for name, row in rows.items():
        classes[row["class"]].append(name)
    assert sorted(map(sorted, classes.values())) == [["bucketed", "one", "two"], ["three"]]
    for members in classes.values():
        check_ranks(members, rows, repeats)


def moderated_by_hand(
    differences: dict[tuple[str, str], NDArray[np.float64]],
) -> dict[tuple[str, str], float]:
    """Return p of each pair of three rows with three blocks: Smyth (2004), section 6, by search."""
    variances = np.array([each.var(ddof=1) for each in differences.values()])
    logarithms = np.log(variances) - special.digamma(1.0) + np.log(1.0)
    excess = logarithms.var(ddof=1) - special.polygamma(1, 1.0)
    prior, extra = np.exp(logarithms.mean()), math.inf
    if excess > 0:
        grid = np.geomspace(1e-4, 1e4, 2_000_001)
        half = grid[np.argmin(np.abs(special.polygamma(1, grid) - excess))]
        prior, extra = np.exp(logarithms.mean() + special.digamma(half) - np.log(half)), 2 * half
    extra = min(extra, 2 * 2)  # a prior counts at most twice as much as two degrees of freedom
    moderated = (extra * prior + 2 * variances) / (extra + 2)
    freedom = min(2 + extra, (3 - 1) * (3 - 1))
    return {
        pair: 2 * stats.t.sf(abs(each.mean()) / np.sqrt(variance / 3), freedom)
        for (pair, each), variance in zip(differences.items(), moderated, strict=True)
    }


def check_ranks(
    members: list[str], rows: dict[str, dict[str, str]], repeats: dict[str, list[dict[str, float]]]
) -> None:
    """Check the order of a class and its ties against moderated paired tests and Holm by hand."""
    logs = {n: np.log([repeat["throughput_samples_s"] for repeat in repeats[n]]) for n in members}
    assert members == sorted(members, key=lambda n: -np.exp(logs[n]).mean())
    differences = {(a, b): logs[a] - logs[b] for i, a in enumerate(members) for b in members[i + 1 :]}
    better = holm_by_hand(moderated_by_hand(differences)) if differences else set()
    for name in members:
        low = 1 + sum((other, name) in better for other in members)
        high = len(members) - sum((name, other) in better for other in members)
        assert (int(rows[name]["rank"]), int(rows[name]["rank_high"])) == (low, high)
