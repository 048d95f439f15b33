"""From a sweep to limits, really run: its job probes, its report says how far each run is from what binds."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pandas as pd

from hpcbench.ceilings.step_prediction import LimitingResource
from hpcbench.report.collection import collect_results
from hpcbench.report.results_audit import audit_results
from tests.audit.judging import errors
from tests.ceilings.test_probe import write_sweep
from tests.cluster.helpers import Lab, eventually

RUNS = [
    {"strategy": "single_gpu"},
    {"strategy": "ddp", "ranks": 2, "measure_exchange": True},
    {"strategy": "collective", "ranks": 2, "strategy_options": {"exchange": "per_parameter"}},
]
# A machine with other work gives another figure each time; a wrong formula is off by more than this.
WITHIN = 4.0
PROBING = "its job first measures what the node can do"


def rows_of(file: Path) -> dict[str, dict[str, str]]:
    """Return the lines of a table by experiment."""
    with file.open() as lines:
        return {row["experiment"]: row for row in csv.DictReader(lines)}


def test_a_sweep_is_held_against_what_its_node_can_do(lab: Lab) -> None:
    """Every run has a prediction that is not absurd, a limit and an MFU; none is called wrong."""
    sweep = write_sweep(lab.folder, RUNS, epochs=4, global_batch=64)
    with lab.start("submit", sweep, "--results", "results") as submitted:
        eventually(lambda: {run.reason for run in lab.states().values()} == {PROBING}, within_s=60)
        _, told = submitted.communicate(timeout=240)
    assert submitted.returncode == 0, told
    results = lab.results().path
    report = collect_results([results], pictures=False).report
    told = rows_of(report / "ceilings.csv")
    assert set(told) == {"single_gpu", "ddp", "collective"}
    for row in told.values():
        assert 100 / WITHIN < float(row["of_predicted_pct"]) < 100 * WITHIN
        assert 0 < float(row["mfu_pct"]) < 150
        assert row["extrapolated"] == "False" and row["missing"] == ""
    assert 0 <= float(told["ddp"]["overlap"]) <= 1 and told["collective"]["overlap"] == ""
    limits = pd.read_csv(report / "ranking.csv")["limit"]
    assert set(limits) <= {each.value for each in LimitingResource}
    assert errors(audit_results(results)[0]) == []
    printed = json.loads(lab.run("predict", sweep, "--json").stdout)["runs"]
    known = {each["name"]: each["error_pct"] for each in printed}
    assert all(error is not None for error in known.values())
