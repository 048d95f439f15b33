"""Every rule on records: a run that breaks it, and one that does not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from hpcbench.audit.audit_findings import AuditRule, Finding, FindingScope
from hpcbench.audit.rule_table import ALL_RULES
from hpcbench.ceilings.ceiling_records import CopyCheck
from hpcbench.runs.events import Check, Steps
from hpcbench.sweep.run_spec import Optimizer
from tests.audit.judging import codes, errors, findings, group
from tests.audit.witnesses import (
    BROKEN,
    CLEAN,
    NODE,
    ROW,
    Write,
    counted,
    held_against,
    rivals,
    suspect,
    with_broken_copies,
)
from tests.audit.written import Change, alone, changing, run, telemetry, unchanged, write
from tests.ceilings import written as ceilings

ONLY_TABLES = {"batch-size-ambiguous", "unreadable-cell"}
OF_NODES = {"copies-broken"}
FROM_RECORDS = [rule for rule in ALL_RULES if rule.code not in ONLY_TABLES | OF_NODES]


def judged(written: Write, results: Path) -> list[Finding]:
    """Write records and return what is found in them."""
    return findings(results, written(results) or ())


def test_every_rule_has_its_witnesses() -> None:
    """A rule that is added to the table has to appear here."""
    assert {rule.code for rule in FROM_RECORDS} == set(BROKEN)


@pytest.mark.parametrize("rule", FROM_RECORDS, ids=lambda rule: rule.code)
def test_a_rule_names_the_run_that_breaks_it(rule: AuditRule, tmp_path: Path) -> None:
    """The finding is about that row alone, once, with a sentence, figures and advice."""
    found = [each for each in judged(BROKEN[rule.code], tmp_path / "r") if each.code == rule.code]
    assert [each.rows for each in found] == [(ROW,)]
    assert (found[0].severity, found[0].scope) == (rule.severity, rule.scope)
    assert found[0].message and found[0].advice == rule.advice
    assert "honest" not in found[0].rows


@pytest.mark.parametrize("rule", FROM_RECORDS, ids=lambda rule: rule.code)
def test_a_rule_is_silent_on_a_clean_run(rule: AuditRule, tmp_path: Path) -> None:
    """The same runs without the change give no such finding, and no error at all."""
    found = judged(CLEAN.get(rule.code, rivals(0.03, 0.01)), tmp_path / "r")
    assert rule.code not in {each.code for each in found}
    assert not errors(found)


def test_copies_that_break_are_told_of_the_node(tmp_path: Path) -> None:
    """It is about no row alone; a node whose copies arrive is not mentioned."""
    found = judged(with_broken_copies, tmp_path / "r")
    assert [(each.code, each.scope, each.rows) for each in errors(found)] == [
        ("copies-broken", FindingScope.SWEEP, ())
    ]
    whole = CopyCheck(device="H200", pairs=["0 1", "1 0"], broken=[])
    ceilings.write(tmp_path / "r" / "ceilings" / "n1.jsonl", [whole])
    assert not errors(findings(tmp_path / "r"))


@pytest.mark.parametrize(
    ("seen", "code"),
    [
        ({"other_cpu_cores": [1.0] * 10}, "busy-machine"),
        ({"other_cpu_cores": [4.0] + [0.0] * 9}, None),  # a moment of it
        ({"device_other_processes": [1] * 10}, "busy-machine"),
        ({"cpu_mhz": [3000.0] * 7 + [2000.0] * 3}, "throttled"),
        ({"cpu_mhz": [None] * 10}, None),
        ({"cpu_mhz": [3000.0] * 7 + [1000.0] * 3, "cpu_percent": [90.0] * 7 + [5.0] * 3}, None),  # it slept
        ({"device_throttle": [["sw_power_cap"]] * 3 + [[""]] * 7}, "throttled"),
        ({"device_throttle": [["sw_power_cap"]] + [[""]] * 9}, None),
        ({"device_throttle": [["", "sw_thermal_slowdown"]] * 10}, "throttled"),
    ],
)
def test_telemetry_is_judged(tmp_path: Path, seen: dict[str, Any], code: str | None) -> None:
    """Other processes, heat and power limits are told of; what a system always does is not."""
    write(tmp_path / "r", run(ROW), telemetry=[telemetry(**seen)])
    assert codes(findings(tmp_path / "r"), ROW) == ({code} if code else set())


def test_two_readings_are_an_accident(tmp_path: Path) -> None:
    """A run of two seconds says too little of its machine."""
    few = {name: values[:2] for name, values in vars(telemetry()).items() if isinstance(values, list)}
    short = telemetry(**few | {"other_cpu_cores": [8.0, 8.0]})
    write(tmp_path / "r", run(ROW), telemetry=[short])
    assert codes(findings(tmp_path / "r"), ROW) == set()


def test_workers_of_an_asynchronous_server_are_not_above_what_one_loads(tmp_path: Path) -> None:
    """Two workers at 2,400 samples/s, where loaders bring 4,000 in all: each update rests on one batch."""
    options = {"mode": "async"}
    spec = run(ROW, strategy="ps", servers=1, strategy_options=options, updates_per_step=2)
    write(tmp_path / "r", spec, staleness=[0] * 75)
    slow = ceilings.loader(images_per_s=4_000.0)
    here = [slow, ceilings.compute(flop_per_image=2 * 10**7), ceilings.matrix()]
    ceilings.write(tmp_path / "r" / "ceilings" / "n1.jsonl", here)
    assert not {"above-ceiling", "below-floor"} & codes(findings(tmp_path / "r"), ROW)


def test_ceilings_of_another_batch_are_not_held_against_a_run(tmp_path: Path) -> None:
    """What was carried over is an extrapolation, and no figure is an error for its sake."""
    held_against(unchanged, ceilings.compute(batch=64, seconds=0.001))(tmp_path / "r")
    assert "above-ceiling" not in codes(findings(tmp_path / "r"), ROW)


def test_ceilings_of_another_node_are_not_held_against_a_run(tmp_path: Path) -> None:
    """A slower node says nothing of what this one can reach."""
    suspect(unchanged)(tmp_path / "r")
    slow = [ceilings.compute(seconds=0.1), ceilings.loader(images_per_s=100.0), ceilings.matrix()]
    ceilings.write(tmp_path / "r" / "ceilings" / "n2.jsonl", slow, host="n2")
    assert not {"above-ceiling", "below-floor"} & codes(findings(tmp_path / "r"), ROW)
    ceilings.write(tmp_path / "r" / "ceilings" / "n1.jsonl", slow, host="n1")
    assert "above-ceiling" in codes(findings(tmp_path / "r"), ROW)


def test_a_step_shorter_than_its_multiplications_is_below_its_floor(tmp_path: Path) -> None:
    """64 images of 1 GFLOP each on two devices of 10 GFLOP/s take seconds, even with fast convolutions."""
    held_against(unchanged, ceilings.compute(flop_per_image=10**9), ceilings.matrix())(tmp_path / "r")
    told = [
        each.message for each in findings(tmp_path / "r") if each.code == "below-floor" and ROW in each.rows
    ]
    assert told and "matrix rate" in told[0]


def test_a_file_of_ceilings_that_is_broken_is_a_problem_and_no_end(tmp_path: Path) -> None:
    """Runs are audited without it."""
    held_against(unchanged, *NODE)(tmp_path / "r")
    (tmp_path / "r" / "ceilings" / "n1.jsonl").write_text("{}\n{")
    assert not errors(findings(tmp_path / "r"))


def test_samples_counted_four_for_three_are_told_so(tmp_path: Path) -> None:
    """A factor of 4/3 is read as four ranks counted and three training."""
    found = judged(BROKEN["samples-not-conserved"], tmp_path / "r")
    message = next(each.message for each in found if each.code == "samples-not-conserved")
    assert "4/3 fits 4 ranks counted and 3 training" in message


def test_a_group_may_differ_in_what_follows_from_its_factor(tmp_path: Path) -> None:
    """A batch brings its steps, a strategy its options, ranks and backend; none of it is a finding."""
    write(tmp_path / "r", alone("one"))
    write(tmp_path / "r", run("two", strategy_options={"bucket_mb": 25.0}))
    write(tmp_path / "r", run("three", batch_size=16, strategy_options={"bucket_mb": 25.0}))
    groups = [
        group("one", "two"),
        dataclasses.replace(group("two", "three", factor=("batch_size",)), id="G2"),
    ]
    assert not errors(findings(tmp_path / "r", groups))


def test_a_difference_beside_a_dotted_factor_is_named(tmp_path: Path) -> None:
    """A group that compares learning rates says so when momentum differs as well, and names only that."""
    write(tmp_path / "r", run("a", optimizer=Optimizer(lr=0.1)))
    write(tmp_path / "r", run("b", optimizer=Optimizer(lr=0.2)))
    write(tmp_path / "r", run(ROW, optimizer=Optimizer(lr=0.4, momentum=0.5)))
    found = findings(tmp_path / "r", [group("a", "b", ROW, factor=("optimizer.lr",))])
    named = [each.figures["fields"] for each in found if each.code == "recipe-differs"]
    assert named == [{"optimizer.momentum": 0.5}]


def test_runs_that_start_elsewhere_than_their_class_are_named(tmp_path: Path) -> None:
    """Ranks that agree with each other and with nobody else are an error of that run."""
    write(tmp_path / "r", run("honest"))
    write(tmp_path / "r", run("other", strategy="collective"))
    change = changing(Check, weights_checksum=lambda e: e.weights_checksum if e.epoch else "mine")
    write(tmp_path / "r", run(ROW, strategy="zero1"), change)
    found = errors(findings(tmp_path / "r"))
    assert {(each.code, each.rows, each.scope) for each in found} == {
        ("initial-state-differs", (ROW,), FindingScope.RUN)
    }


def test_what_promises_no_parity_is_not_held_to_it(tmp_path: Path) -> None:
    """Asynchronous servers, compression and local steps may see other losses."""
    write(tmp_path / "r", run("honest"))
    other = changing(Steps, loss_sum=lambda e: [1.1 * loss for loss in e.loss_sum])
    write(tmp_path / "r", run("late", strategy="ps", servers=1, strategy_options={"mode": "async"}), other)
    write(tmp_path / "r", run("short", strategy_options={"compression": "fp16"}), other)
    write(tmp_path / "r", run("local", strategy="local_sgd", strategy_options={"local_steps": 4}), other)
    assert "parity-failed" not in {each.code for each in findings(tmp_path / "r")}


@pytest.mark.parametrize(
    ("course", "wrong_step", "is_told"),
    [
        ([2.35, 2.1, 1.9, 1.8, 1.7], 3, True),
        ([2.35, 2.91, 4.73, 7.98, 7.9], 3, False),
        ([2.35, 2.91, 4.73, 7.98, 7.9], 1, True),
    ],
)
def test_parity_is_not_judged_where_descent_goes_up(
    tmp_path: Path, course: list[float], wrong_step: int, is_told: bool
) -> None:
    """3 % at a later step is an error where the loss falls, and rounding where it has risen before."""

    def losses(wrong: bool) -> Change:
        def told(event: Steps) -> list[float]:
            steps = range(event.first_step, event.first_step + event.steps)
            off = {wrong_step: 1.03} if wrong else {}
            return [32 * course[min(step, 4)] * off.get(step, 1.0) for step in steps]

        return changing(Steps, loss_sum=told)

    write(tmp_path / "r", run("honest"), losses(False))
    write(tmp_path / "r", run(ROW, strategy="collective"), losses(True))
    assert ("parity-failed" in codes(findings(tmp_path / "r"), ROW)) is is_told


def test_unfinished_runs_are_not_judged(tmp_path: Path) -> None:
    """A run that did not finish gives no finding, whatever its records hold."""
    write(tmp_path / "r", run("honest"))
    write(tmp_path / "r", run(ROW, strategy="collective"), counted(2))
    for file in (tmp_path / "r" / "runs" / ROW).glob("r*/events.a1.rank0.jsonl"):
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    assert codes(findings(tmp_path / "r"), ROW) == set()


def test_a_skipped_update_or_two_is_no_finding(tmp_path: Path) -> None:
    """Finding the scale of the loss costs some updates in the beginning."""
    first = changing(Steps, skipped_updates=lambda e: 9 if e.first_step == 0 else 0)
    write(tmp_path / "r", run(ROW), first)
    assert "amp-steps-skipped" not in codes(findings(tmp_path / "r"), ROW)


def test_a_finding_says_in_which_repeats(tmp_path: Path) -> None:
    """One finding for a row, with the numbers of the repeats that are like that."""
    write(tmp_path / "r", run(ROW), changing(Steps, non_finite=lambda e: int(e.first_step == 0)))
    found = [each for each in findings(tmp_path / "r") if each.code == "non-finite-loss"]
    assert [each.figures["repeats"] for each in found] == [[0, 1, 2]]
    assert "3 of 3 repeats" in found[0].message
