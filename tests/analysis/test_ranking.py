from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from hpcbench.analysis.figure_registry import RANKING_COLUMNS
from hpcbench.analysis.ranking import Ranking, rank_runs
from hpcbench.analysis.results_loading import load_results
from hpcbench.errors import InputError
from tests.report.records import Story, Sweep, single, spec


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """Return an empty results folder."""
    return Sweep(tmp_path / "sweep")


def ranked(*sweeps: Sweep, rank_by: str = "throughput_samples_s") -> Ranking:
    """Rank what the folders hold."""
    return rank_runs(load_results([sweep.folder.path for sweep in sweeps]).runs, rank_by=rank_by)


def ranks(ranking: Ranking) -> dict[str, tuple[int, int]]:
    """Return rank and rank_high of every ranked row."""
    frame = ranking.frame[ranking.frame["rank"].notna()].set_index("experiment")
    return {str(name): (int(row["rank"]), int(row["rank_high"])) for name, row in frame.iterrows()}


def story(step_s: float, noise: float = 0.01, seed: int = 1) -> Story:
    """Return a story with its own random numbers."""
    return Story(step_s=step_s, noise=noise, rng=random.Random(seed))


def test_columns_are_those_of_the_contract(sweep: Sweep) -> None:
    """The ranking has the columns of the contract in their order, full or empty."""
    contract = (
        "rank, rank_high, experiment, strategy, backend, model, dataset, class, batch_per_rank, ranks, "
        "devices, nodes, global_batch, precision, cache, repeats, throughput_samples_s, throughput_ci_low, "
        "throughput_ci_high, throughput_per_device, best_acc_pct, final_acc_pct, epoch_time_s, total_time_s, "
        "peak_mem_mb, data_wait_pct, exposed_comm_pct, steps_per_epoch, limit, findings, trusted"
    )
    assert ", ".join(RANKING_COLUMNS) == contract
    assert ", ".join(ranked(sweep).frame.columns) == contract
    sweep.repeats(spec(), count=1)
    assert ", ".join(ranked(sweep).frame.columns) == contract


def test_clear_differences_are_ranked_although_the_machine_slowed_down(sweep: Sweep) -> None:
    """Repeats that are slower for everybody don't hide a difference: it is tested inside blocks."""
    sweep.repeats(single(), story(0.010))
    sweep.repeats(spec("ddp"), story(0.0102))
    sweep.repeats(spec("slow", cache="memory"), story(0.02))
    ranking = ranked(sweep)
    frame = ranking.frame.set_index("experiment")
    assert frame.loc["single_gpu", "throughput_ci_low"] < frame.loc["ddp", "throughput_ci_high"]
    assert ranks(ranking) == {"single_gpu": (1, 1), "ddp": (2, 2), "slow": (3, 3)}


def test_what_noise_can_make_is_a_tie(sweep: Sweep) -> None:
    """Two runs whose difference lies within their noise share their ranks, the third is clear."""
    for name, cache, seed in (("a", "none", 1), ("b", "memory", 2)):
        for repeat, factor in enumerate((1.0, 1.1, 0.95)):
            step_s = 0.01 * (factor if seed == 1 else 2.03 - factor)
            run = replace(spec(name, cache=cache), repeat=repeat, seed=repeat)
            sweep.run(run, story(step_s, seed=seed)).finish()
    sweep.repeats(single("slow"), story(0.1))
    assert sorted(ranks(ranked(sweep)).values()) == [(1, 2), (1, 2), (3, 3)]


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_repeats_are_one_tie(sweep: Sweep, count: int) -> None:
    """With one or two repeats nothing is claimed, however large the difference."""
    sweep.repeats(single(), story(0.01), count=count)
    sweep.repeats(spec(), story(0.1), count=count)
    ranking = ranked(sweep)
    assert set(ranks(ranking).values()) == {(1, 2)}
    assert ranking.frame["throughput_ci_low"].isna().all() == (count == 1)
    assert ranking.frame["experiment"].tolist() == ["single_gpu", "ddp_gloo"]


def test_runs_of_different_folders_are_not_compared(tmp_path: Path) -> None:
    """Repeats of two sweeps were not run side by side: their runs tie, in the order of their means."""
    first, second = Sweep(tmp_path / "first"), Sweep(tmp_path / "second")
    first.repeats(single(), story(0.01))
    second.repeats(spec(), story(0.1))
    assert ranks(ranked(first, second)) == {"single_gpu": (1, 2), "ddp_gloo": (1, 2)}


def test_classes_are_ranked_each_for_itself_and_smoke_never_with_real_runs(sweep: Sweep) -> None:
    """Every class has its own first rank."""
    sweep.repeats(spec("real"), story(0.01))
    sweep.repeats(spec("smoke", smoke=True), story(0.001))
    sweep.repeats(spec("other_batch", batch_size=64), story(0.005))
    ranking = ranked(sweep)
    assert set(ranks(ranking).values()) == {(1, 1)}
    assert ranking.frame["class"].nunique() == 3


def test_what_trains_nothing_or_teaches_takes_no_rank(sweep: Sweep) -> None:
    """noop and teaching runs keep their figures and never a rank."""
    sweep.repeats(spec("honest"), story(0.01))
    sweep.repeats(spec("noop", strategy="noop", backend=None), story(0.001))
    sweep.repeats(spec("wrong", teaching=True), story(0.001))
    ranking = ranked(sweep)
    assert ranks(ranking) == {"honest": (1, 1)}
    assert ranking.frame["throughput_samples_s"].notna().all()


def test_failed_runs_keep_a_row_with_their_limit_or_state(sweep: Sweep) -> None:
    """A row without a finished repeat has no rank and says why; one finished repeat gives a figure."""
    sweep.repeats(spec("fine"))
    sweep.run(spec("oom", cache="memory")).fail(limit="memory")
    sweep.run(spec("broken", cache="device")).fail()
    sweep.run(spec("stopped", precision="amp_bf16")).interrupt()
    half = spec("half", precision="fp64")
    sweep.run(half).finish()
    sweep.run(replace(half, repeat=1, seed=1)).fail()
    frame = ranked(sweep).frame.set_index("experiment")
    assert frame["limit"].fillna("").to_dict() == {
        "fine": "", "half": "", "oom": "memory", "broken": "failed", "stopped": "interrupted",
    }  # fmt: skip
    assert frame["repeats"].to_dict() == {"fine": 3, "half": 1, "oom": 0, "broken": 0, "stopped": 0}
    assert set(frame.index[frame["rank"].notna()]) == {"fine", "half"}
    assert frame["throughput_samples_s"].isna().to_dict()["oom"]
    assert frame["trusted"].eq("unaudited").all() and frame["findings"].eq("").all()


def test_any_measure_can_rank_in_its_own_direction(sweep: Sweep) -> None:
    """Times and memory rank from small to large, rates and accuracies from large to small."""
    sweep.repeats(single(), story(0.01))
    sweep.repeats(spec(), story(0.02))
    first = {
        column: ranked(sweep, rank_by=column).frame["experiment"].iloc[0]
        for column in ("throughput_per_device", "epoch_time_s", "total_time_s")
    }
    assert set(first.values()) == {"single_gpu"}
    frame = ranked(sweep, rank_by="best_acc_pct").frame
    assert frame["best_acc_pct"].iloc[0] == frame["best_acc_pct"].max()


def test_a_row_without_the_figure_to_rank_by_takes_no_rank(sweep: Sweep) -> None:
    """Ranked by exposed communication, only runs that have it take part."""
    sweep.repeats(spec("hidden"))
    sweep.repeats(spec("open", strategy="collective", strategy_options={"exchange": "per_parameter"}))
    sweep.repeats(spec("overlapped", strategy="collective", strategy_options={"exchange": "overlapped"}))
    frame = ranked(sweep, rank_by="exposed_comm_pct").frame.set_index("experiment")
    assert frame.loc["open", "exposed_comm_pct"] == pytest.approx(20)
    assert frame.index[frame["rank"].notna()].tolist() == ["open"]


def test_an_unknown_column_names_those_that_can_rank(sweep: Sweep) -> None:
    """The message lists the valid columns."""
    with pytest.raises(InputError, match=r"throughput_samples_s.*exposed_comm_pct") as error:
        ranked(sweep, rank_by="speed")
    assert "'speed'" in str(error.value)
