from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from hpcbench.analysis.derived_columns import speed_ups, target_accuracies, times_to_accuracy
from hpcbench.analysis.results_loading import load_results
from hpcbench.analysis.run_history import RunHistory
from hpcbench.audit.rule_table import ALL_RULES
from hpcbench.reference import CIFAR100, IMAGENET, published_rows
from hpcbench.report.collection import CollectedReport, collect_results
from hpcbench.report.plots.plot_style import can_draw, chinese_font_families
from hpcbench.report.translations import Language
from tests.report.records import Story, Sweep, single, spec

STUDY2 = "ddp_gloo_resnet18_bs128x2_cacheFalse_ampFalse"


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> CollectedReport:
    """Return a report of runs that bear names of both studies."""
    sweep = Sweep(tmp_path_factory.mktemp("results") / "sweep")
    sweep.repeats(single("baseline_ddp"), Story(step_s=0.02, rng=random.Random(1)))
    sweep.repeats(spec(STUDY2), Story(step_s=0.012, rng=random.Random(2)))
    return collect_results([sweep.folder.path], pictures=False, cost_per_device_hour=3.6)


def table(collected: CollectedReport, title: str) -> list[dict[str, str]]:
    """Return a table of report.md below a title."""
    text = (collected.report / "report.md").read_text().split(f"### {title}\n\n")[1].split("\n\n")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def test_study_2s_seven_columns_with_what_it_published(studies: CollectedReport) -> None:
    """The table has the study's columns in its order, and its figures beside the row that has its name."""
    rows = table(studies, "In the format of the CIFAR-100 study")
    assert list(rows[0])[:7] == [
        "Experiment", "Model", "Batch Size", "Best Acc (%)", "Avg Throughput (img/s)", "Max GPU Mem (MB)",
        "Total Time (s)",
    ]  # fmt: skip
    assert [row["Experiment"] for row in rows] == [STUDY2, "baseline_ddp"]
    assert rows[0]["Avg Throughput (img/s) (published)"] == published_rows(CIFAR100)[
        "ddp_gloo_resnet18_bs128x2_cachefalse_ampfalse"]["avg_throughput_img_s"] == "1833.8"  # fmt: skip
    assert rows[1]["Avg Throughput (img/s) (published)"] == "–"


def test_study_1s_columns_and_its_table_of_losses(studies: CollectedReport) -> None:
    """The row of the study's method has its published figures; losses are those of the first epoch's ends."""
    (row,) = [
        r for r in table(studies, "In the format of the ImageNet study") if r["Experiment"] == "baseline_ddp"
    ]
    assert (row["s/epoch (published)"], row["val acc (%) (published)"]) == ("2186.23", "7.14")
    losses = {r["Experiment"]: r for r in table(studies, "Training loss of the first epoch")}
    assert losses["baseline_ddp"]["last step (published)"] == "5.446"
    steps = pd.read_parquet(studies.report / "steps.parquet").query(
        "experiment == 'baseline_ddp' and epoch == 1"
    )
    ends = steps.sort_values("step").groupby("repeat")["loss"].agg(["first", "last"]).mean()
    assert float(losses["baseline_ddp"]["first step"]) == pytest.approx(ends["first"], abs=6e-4)
    assert float(losses["baseline_ddp"]["last step"]) == pytest.approx(ends["last"], abs=6e-4)


def test_published_tables_are_complete() -> None:
    """All rows of both studies are there."""
    assert (len(published_rows(CIFAR100)), len(published_rows(IMAGENET))) == (23, 3)


def test_statistics_agree_with_scipy(studies: CollectedReport) -> None:
    """Ratio, interval and p against the row above and the baseline are those of scipy's paired test."""
    found = pd.read_csv(studies.report / "statistics.csv").set_index("experiment")
    runs = pd.read_parquet(studies.report / "runs.parquet")
    logs = {name: part.sort_values("repeat")["throughput_samples_s"].astype(float).map(math.log).to_numpy()
            for name, part in runs.groupby("experiment")}  # fmt: skip
    test = stats.ttest_rel(logs[STUDY2], logs["baseline_ddp"])
    low, high = (math.exp(end) for end in test.confidence_interval(0.95))
    row = found.loc[STUDY2]
    assert (row["baseline_effect_low"], row["baseline_effect_high"]) == pytest.approx((low, high))
    assert row["baseline_p_holm"] == pytest.approx(test.pvalue)
    assert (row["baseline_experiment"], bool(row["baseline_supported"])) == (
        "baseline_ddp",
        test.pvalue < 0.05,
    )
    assert found.loc["baseline_ddp", "above_effect"] == pytest.approx(1 / row["baseline_effect"])
    assert row["speed_up"] == pytest.approx(row["mean"] / found.loc["baseline_ddp", "mean"])
    assert row["efficiency_pct"] == pytest.approx(50 * row["speed_up"])
    ranking = pd.read_csv(studies.report / "ranking.csv").set_index("experiment")
    assert row["cost_per_epoch"] == pytest.approx(ranking.loc[STUDY2, "epoch_time_s"] * 2 * 0.001)


def test_speed_up_is_against_one_device_of_the_same_kind() -> None:
    """The same class comes first, then the same batch a device; another cache is no reference."""
    common = {"dataset": "d", "model": "m", "precision": "fp32", "rank": 1}
    rows = [
        {**common, "experiment": "one", "cache": "none", "class": "A", "batch_per_rank": 64, "devices": 1,
         "throughput_samples_s": 100.0},
        {**common, "experiment": "strong", "cache": "none", "class": "A", "batch_per_rank": 32, "devices": 2,
         "throughput_samples_s": 150.0},
        {**common, "experiment": "weak", "cache": "none", "class": "B", "batch_per_rank": 64, "devices": 2,
         "throughput_samples_s": 180.0},
        {**common, "experiment": "cached", "cache": "memory", "class": "A", "batch_per_rank": 32,
         "devices": 2, "throughput_samples_s": 300.0},
    ]  # fmt: skip
    found = speed_ups(rows)
    assert (found["strong"].speed_up, found["strong"].efficiency_pct, found["strong"].kind) == (
        1.5,
        75.0,
        "strong",
    )
    assert (found["weak"].speed_up, found["weak"].kind) == (1.8, "weak")
    assert "cached" not in found


def test_time_to_accuracy_counts_epochs_until_all_repeats_reach_it(tmp_path: Path) -> None:
    """It is the sum of epochs up to the one that reaches the target; who does not reach it has none."""
    sweep = Sweep(tmp_path / "sweep")
    sweep.repeats(single(), Story(step_s=0.01, rng=random.Random(1)))
    sweep.repeats(spec("worse", cache="memory"), Story(final_acc=0.6))
    loaded = load_results([sweep.folder.path])
    times = times_to_accuracy(loaded.runs, loaded.epochs, target_accuracies(loaded.runs, 70.0))
    mine = loaded.epochs[loaded.epochs["experiment"] == "single_gpu"]
    by_hand = [
        part.loc[: (part["acc_pct"] >= 70).idxmax(), "epoch_time_s"].sum()
        for _, part in mine.groupby("repeat")
    ]
    assert times == {"single_gpu": pytest.approx(sum(by_hand) / 3)}


def test_a_chinese_report_is_chinese_and_without_a_font_its_pictures_are_english(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables, page and verdict are Chinese, `ranking.csv` is not; without a font it says what to install."""
    sweep = Sweep(tmp_path / "sweep")
    sweep.repeats(single(), count=1)
    monkeypatch.setattr("hpcbench.report.plots.plot_style.CHINESE_FONT_FAMILIES", ())
    monkeypatch.setattr("hpcbench.report.plots.plot_style.CHINESE_FONT_FILES", ())
    monkeypatch.delenv("HPCBENCH_FONT", raising=False)
    assert chinese_font_families() == []
    collected = collect_results([sweep.folder.path], lang="zh")
    assert any("fonts-noto-cjk" in problem and "HPCBENCH_FONT" in problem for problem in collected.problems)
    assert "名次" in (collected.report / "ranking.md").read_text()
    rule = next(rule for rule in ALL_RULES if rule.code == "too-few-repeats")
    what, advice = map(Language("zh").text, (rule.what, rule.advice))
    assert what != rule.what and advice != rule.advice
    for name in ("report.md", "ranking.md", "report.html"):
        text = (collected.report / name).read_text()
        assert what in text and advice in text and "警告" in text, name
        assert "Repeat every run at least three times" not in text, name
    html = (collected.report / "report.html").read_text()
    assert 'lang="zh-CN"' in html and "吞吐量" in html
    assert (collected.report / "ranking.csv").read_text().startswith("rank,rank_high,experiment")


@pytest.mark.filterwarnings("error:Glyph")
def test_chinese_pictures_have_all_their_signs(tmp_path: Path) -> None:
    """With a font every sign is drawn, in the words of the language and in a group's title."""
    if not chinese_font_families():
        pytest.skip("no font with Chinese signs: apt-get install fonts-noto-cjk")
    sweep = Sweep(tmp_path / "sweep")
    sweep.repeats(single(), Story(step_s=0.02))
    sweep.repeats(spec(), Story(step_s=0.01))
    sweep.folder.sweep.write_text(
        "groups:\n- {id: G1, title: '单卡与多卡', factor: strategy, runs: [single_gpu, ddp_gloo]}\n",
        encoding="utf-8",
    )
    assert collect_results([sweep.folder.path], lang="zh").problems == []


def test_a_font_that_is_none_is_refused(tmp_path: Path) -> None:
    """HPCBENCH_FONT must name a font; the message says so."""
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    for named in (str(broken), "No Such Family"):
        with pytest.raises(Exception, match="HPCBENCH_FONT"):
            chinese_font_families({"HPCBENCH_FONT": named})


def test_all_pictures_of_a_process_use_the_same_fonts() -> None:
    """A font file that is found later may hold several families, which all count from the first picture."""
    code = "from hpcbench.report.plots.plot_style import chinese_font_families as f; assert f() == f(), f()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_characters_that_no_font_has_are_noticed() -> None:
    """Names in any script that the default font lacks are not drawn as empty boxes."""
    assert can_draw("ddp_gloo – größer, ± 5 µs")
    assert not any(can_draw(text) for text in ("吞吐量", "\u0e1c\u0e25", "\U0001f680"))


def test_steps_are_told_as_arrays_and_read_by_anybody(studies: CollectedReport) -> None:
    """steps.parquet has one row a step of a repeat, with the types that its readers expect."""
    steps = pd.read_parquet(studies.report / "steps.parquet")
    assert list(steps.columns) == ["experiment", "repeat", "run_id", "epoch", "step", "loss", "acc_pct"]
    assert len(steps) == 2 * 3 * 3 * (1437 // 64)
    assert steps["loss"].between(0, 4).all()
    assert RunHistory(state="finished").updates == ()  # type: ignore[arg-type]
    assert json.loads(pd.read_parquet(studies.report / "runs.parquet")["environment"].iloc[0]) == {}


def test_merged_folders_are_told_apart(tmp_path: Path) -> None:
    """With several folders the page says whose a row is; folders of one name get their parents'."""
    for date, run in (("monday", single()), ("tuesday", spec())):
        Sweep(tmp_path / date / "sweep").repeats(run, count=1)
    folders = [tmp_path / date / "sweep" for date in ("monday", "tuesday")]
    report = collect_results(folders, pictures=False).report
    assert report == folders[1] / "report"
    html = (report / "report.html").read_text()
    assert '<td class="">monday/sweep</td>' in html and '<td class="">tuesday/sweep</td>' in html
    alone = collect_results(folders[:1], pictures=False).report / "report.html"
    assert "monday/sweep" not in alone.read_text()
