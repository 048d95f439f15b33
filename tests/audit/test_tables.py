"""Tables that somebody else has made: what is found in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpcbench.audit.audit_findings import Finding
from hpcbench.audit.tables.foreign_table import StatedFacts
from hpcbench.report.results_audit import audit_file
from tests.audit.judging import codes, errors

TABLES = Path(__file__).parent / "tables"
STUDY1, STUDY2 = TABLES / "study1.csv", TABLES / "study2.csv"


def found_in(path: Path, **stated: Any) -> list[Finding]:
    """Return the findings of a table."""
    return audit_file(path, StatedFacts(**stated))[0]


def table(tmp_path: Path, text: str, name: str = "t.csv") -> Path:
    """Write a table."""
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def of(found: list[Finding], code: str) -> dict[str, Finding]:
    """Return the findings of a rule by row; there is one for a row at most."""
    about = [each for each in found if each.code == code]
    by_row = {"".join(each.rows): each for each in about}
    assert len(by_row) == len(about)
    return by_row


def test_study_1_counts_four_ranks_and_trains_three() -> None:
    """The parameter server alone is off, by 4/3 within 1 %, and the sentence names both causes."""
    found = of(found_in(STUDY1, samples_per_epoch=1_281_167), "samples-not-conserved")
    assert list(found) == ["Parameter Server"]
    finding = found["Parameter Server"]
    assert finding.figures["factor"] == pytest.approx(4 / 3, rel=0.01)
    assert (finding.figures["ranks_counted"], finding.figures["ranks_training"]) == (4, 3)
    assert (
        "4 ranks counted and 3 training" in finding.message
        and "outside the throughput's clock" in finding.message
    )
    assert finding.figures["samples_over_time_s"] == pytest.approx(486, abs=0.5)
    assert finding.figures["outside_share"] == pytest.approx(1 - 1 / finding.figures["factor"])


def test_said_ranks_decide_how_a_factor_is_read() -> None:
    """With --ranks 4 the factor is 4/3; with --ranks 5 no number of training ranks fits and none is named."""
    four = of(found_in(STUDY1, samples_per_epoch=1_281_167, ranks=4), "samples-not-conserved")
    five = of(found_in(STUDY1, samples_per_epoch=1_281_167, ranks=5), "samples-not-conserved")
    assert four["Parameter Server"].figures["ranks_training"] == 3
    assert "ranks_training" not in five["Parameter Server"].figures


@pytest.mark.parametrize("evaluated", [None, 10_000])
def test_study_2_hides_time_where_every_rank_evaluates_everything(evaluated: int | None) -> None:
    """27 to 35 % of ddp, fsdp and collective_nccl, 19 to 26 % of gloo and the servers, nothing of others."""
    found = of(
        found_in(STUDY2, samples_per_epoch=50_000, epochs=50, eval_samples=evaluated), "time-unaccounted"
    )
    shares = {row: finding.figures["unexplained_share"] for row, finding in found.items()}
    hidden = {row: s for row, s in shares.items() if row.startswith(("ddp", "fsdp", "collective_nccl"))}
    assert len(hidden) == 12
    assert all(0.265 < share < 0.355 for share in hidden.values())
    assert set(shares) - set(hidden) == {
        "collective_gloo_resnet18_bs128x2",
        "ps_mode_resnet18_bs128_workers2",
        "ps_gpu_mode_resnet18_bs128_workers2",
    }


def test_more_evaluation_explains_more_time() -> None:
    """What is granted for evaluation grows with --eval-samples, until nothing is left to explain."""
    few = found_in(STUDY2, samples_per_epoch=50_000, epochs=50, eval_samples=0)
    many = found_in(STUDY2, samples_per_epoch=50_000, epochs=50, eval_samples=50_000)
    assert len(of(few, "time-unaccounted")) == 23
    assert of(many, "time-unaccounted") == {}


def test_study_2_loses_accuracy_with_its_cache() -> None:
    """Each of the four rows with a cache is named beside the row without it, with the points between them."""
    found = of(found_in(STUDY2), "cache-changes-learning")
    gaps = {row: round(-finding.figures["gap_points"], 1) for row, finding in found.items()}
    assert gaps == {
        "single_gpu_resnet18_bs256_cacheTrue_ampTrue": 18.0,
        "ddp_nccl_resnet18_bs128x2_cacheTrue_ampTrue": 7.7,
        "single_gpu_resnet18_bs256_cacheTrue_ampFalse": 17.7,
        "ddp_nccl_resnet18_bs128x2_cacheTrue_ampFalse": 8.1,
    }


def test_study_2_is_slower_on_two_devices_than_on_one() -> None:
    """Every row of several devices that has a partner of equal work is named, the others are not."""
    found = of(found_in(STUDY2), "slower-than-one-device")
    assert found["ddp_nccl_resnet18_bs128x2_cacheFalse_ampFalse"].figures == {
        "ratio": pytest.approx(2293.5 / 4950.0),
        "one_device": "single_gpu_resnet18_bs256_cacheFalse_ampFalse",
    }
    assert "ddp_nccl_resnet34_bs256x2_cacheFalse_ampFalse" not in found
    assert not any(row.startswith("single_gpu") for row in found)


def test_study_2_had_two_input_pipelines() -> None:
    """The rows at 66 to 67 % are named: strategies that learn the same thing cannot differ by 8 points."""
    assert set(of(found_in(STUDY2), "recipe-differs")) == {
        "model_parallel_resnet18_bs256_cacheFalse",
        "collective_nccl_resnet18_bs128x2",
        "collective_gloo_resnet18_bs128x2",
        "ps_mode_resnet18_bs128_workers2",
        "ps_gpu_mode_resnet18_bs128_workers2",
    }


def test_study_2_means_two_things_by_batch_size() -> None:
    """The servers' rows give the batch of a worker where the others give the global one."""
    assert set(of(found_in(STUDY2), "batch-size-ambiguous")) == {
        "ps_mode_resnet18_bs128_workers2",
        "ps_gpu_mode_resnet18_bs128_workers2",
    }


HONEST = """name,throughput (img/s),epoch time (s),total time (s),acc (%),batch size,GPUs,repeats
single_gpu_bs64_cacheFalse,1000,50,530,90.1,64,1,3
ddp_bs32x2_cacheFalse,1900,26.3,280,90.3,64,2,3
ddp_bs32x2_cacheTrue,1950,25.6,275,90.0,64,2,3
"""


def test_an_honest_table_gives_no_finding(tmp_path: Path) -> None:
    """Samples, times, accuracies, batches and repeats that agree: nothing to say."""
    found = found_in(table(tmp_path, HONEST), samples_per_epoch=50_000, epochs=10, eval_samples=10_000)
    assert found == []


@pytest.mark.parametrize(("factor", "named"), [(1.009, False), (1.011, True), (0.991, False), (0.989, True)])
def test_one_per_cent_is_tolerated(tmp_path: Path, factor: float, named: bool) -> None:
    """Rounding and means of rates stay silent, more does not."""
    text = f"name,throughput_img_s,epoch_time_s\na,1000,{50 * factor}\n"
    found = found_in(table(tmp_path, text), samples_per_epoch=50_000)
    assert ("samples-not-conserved" in codes(found, "a")) is named


def test_a_row_is_named_once_by_each_rule(tmp_path: Path) -> None:
    """Epoch time and total time that are both off give one finding, not two."""
    text = "name,throughput_img_s,epoch_time_s,total_time_s\na,1000,10,100\n"
    found = found_in(table(tmp_path, text), samples_per_epoch=50_000, epochs=10)
    assert len(of(found, "samples-not-conserved")) == 1


CHINESE = """方法,吞吐量(张/秒),训练时间(秒),验证准确率(%)
基线,588.64,2186.23,7.14
参数服务器,652.91,2635.00,16.71
"""


@pytest.mark.parametrize(
    ("header", "time"),
    [
        ("方法,吞吐量(张/秒),训练时间(秒)", "2635.00"),
        ("方法,吞吐量(img/s),每轮时间(分钟)", "43.9167"),
        ("策略,吞吐量(图/秒),每个epoch耗时/秒", "2635.00"),
        ("Method,Throughput [images/sec],Epoch Time (min)", "43.9167"),
        ("method,img/s,s/epoch", "2635.00"),
        ("Strategy,Avg Throughput,Time per epoch (h)", "0.7319444"),
        ("method,throughput_kimg_s,epoch_time_ms", "2635000"),
        ("method,throughput (samples/min),训练时间(s/epoch)", "2635"),
        ("方法,吞吐量,训练耗时", "0:43:55"),
    ],
)
def test_columns_are_found_by_their_names_and_units(tmp_path: Path, header: str, time: str) -> None:
    """English and Chinese names with any usual unit: the factor is the same 4/3."""
    rate = {"throughput_kimg_s": "0.65291", "throughput (samples/min)": "39174.6"}
    speed = next((value for key, value in rate.items() if key in header), "652.91")
    found = of(
        found_in(table(tmp_path, f"{header}\nps,{speed},{time}\n"), samples_per_epoch=1_281_167),
        "samples-not-conserved",
    )
    assert found["ps"].figures["factor"] == pytest.approx(1.3428, rel=1e-3)


def test_a_markdown_table_is_read_like_a_csv(tmp_path: Path) -> None:
    """The table may stand between text, with bold cells and a column of another matter."""
    text = "# Study\n\nText | with a bar\n\n| method | img/s | s/epoch | loss |\n|:--|--:|--:|--|\n" \
        "| **PS** | **652.91** | `2635.00` | 7 -> 5 |\n\nend\n"  # fmt: skip
    found = found_in(table(tmp_path, text, "t.md"), samples_per_epoch=1_281_167)
    assert "samples-not-conserved" in codes(found, "PS")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
def test_encodings_are_found_out(tmp_path: Path, encoding: str) -> None:
    """UTF-8 with and without its mark, UTF-16 with its mark, and GB18030 give the same findings."""
    path = tmp_path / "t.csv"
    path.write_bytes(CHINESE.encode(encoding))
    found = found_in(path, samples_per_epoch=1_281_167)
    assert [each.rows for each in errors(found)] == [("参数服务器",)]


def test_numbers_are_read_as_people_write_them(tmp_path: Path) -> None:
    """Thousands separators, units in cells and spreads behind ± are no obstacle."""
    text = 'name,throughput,epoch time\na,"1,000.0 ± 3 img/s",50 s\nb,1000 img/s,66.67 s\n'
    found = of(found_in(table(tmp_path, text), samples_per_epoch=50_000), "samples-not-conserved")
    assert list(found) == ["b"]


def test_a_text_cell_is_a_warning_and_the_rest_is_judged(tmp_path: Path) -> None:
    """One finding for the row, naming row and column; other rows are judged as ever."""
    text = "name,throughput (img/s),epoch time (s)\na,fast,50\nb,1000,66.67\n"
    found = found_in(table(tmp_path, text), samples_per_epoch=50_000)
    warning = of(found, "unreadable-cell")["a"]
    assert "row 2, column 'throughput (img/s)': 'fast' is not a number" in warning.message
    assert "samples-not-conserved" in codes(found, "b")


def test_what_cannot_be_judged_is_said(tmp_path: Path) -> None:
    """Without --samples-per-epoch or --epochs the user is told what to add."""
    assert "say --samples-per-epoch N" in " ".join(audit_file(STUDY1, StatedFacts())[1])
    assert "say --epochs N" in " ".join(audit_file(STUDY2, StatedFacts(samples_per_epoch=50_000))[1])


def test_a_name_that_says_more_may_learn_otherwise(tmp_path: Path) -> None:
    """Rows with a learning rate in their names are no outliers of those without."""
    rows = [f"ddp_{backend}_resnet18_bs64x2,90,1000" for backend in ("nccl", "gloo", "mpi")]
    text = "\n".join(
        ["name,acc (%),img/s", "single_gpu_resnet18_bs128,90.3,900", *rows, "ddp{}_resnet18_bs64x2,70,1000"]
    )
    assert "recipe-differs" in codes(found_in(table(tmp_path, text.format(""))), "ddp_resnet18_bs64x2")
    assert "recipe-differs" not in {each.code for each in found_in(table(tmp_path, text.format("_lr9")))}
