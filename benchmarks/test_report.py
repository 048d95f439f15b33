"""The report of many runs: its page in a browser, and `collect` against DuckDB reading the same records."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hpcbench.records.layout import RunFolder
from hpcbench.report.collect import collect
from tests.report import records
from tests.report.records import Story, Sweep, single

MEGABYTE = 1e6
PAGE_MB, OPENING_S = 12, 3  # issue limits, absolute
RUNS, STEPS = 300, 2000


def many(path: Path, runs: int, *, epochs: int, steps: int, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """Write finished runs, three repeats each; all have the figures of one, under their own names and ids."""
    monkeypatch.setattr(records, "TRAIN_SAMPLES", 64 * steps // epochs)
    sweep = Sweep(path)
    first = single("template", epochs=epochs)
    builder = sweep.run(first, Story(rng=random.Random(1)))
    builder.finish()
    (file,) = builder.folder.event_files()
    text = file.path.read_text()
    shutil.rmtree(builder.folder.path.parent)
    sweep.folder.ledger.write_text("")
    for number in range(runs // 3):
        for repeat in range(3):
            rate = replace(first.optimizer, lr=0.1 + number // 50 / 1000)  # classes of fifty
            run = replace(
                first, name=f"run_{number:05}", repeat=repeat, seed=repeat, warmup_steps=number % 50
            )
            run = replace(run, optimizer=rate)
            folder: RunFolder = sweep.folder.run(run.name, repeat)
            folder.path.mkdir(parents=True)
            folder.spec.write_text(
                json.dumps({"run_id": run.run_id, "spec": run.to_json(), "declared": None})
            )
            folder.claim(1).write_text("{}")
            folder.events(1, 0).write_text(text.replace(first.run_id, run.run_id))
    return sweep


def seconds(work: Callable[[], object]) -> float:
    """Return how long something takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def test_the_page_of_500_runs_is_small_and_opens_fast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 runs of 50 epochs: under 12 MB, and usable within 3 s."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    chromium = os.environ.get("HPCBENCH_CHROMIUM") or shutil.which("chromium")
    sweep = many(tmp_path / "sweep", 500, epochs=50, steps=500, monkeypatch=monkeypatch)
    page = collect([sweep.folder.path], pictures=False).report / "report.html"
    size = page.stat().st_size / MEGABYTE
    print(f"\npage of 498 runs: {size:.1f} MB")
    assert size < PAGE_MB
    if chromium is None:
        pytest.skip("no Chromium: apt-get install chromium, or name one in HPCBENCH_CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        )
        opened = browser.new_page()
        times = [seconds(lambda: opened.goto(page.as_uri())) for _ in range(3)]
        assert opened.locator("#shown").inner_text() == "166 of 166 rows"
        browser.close()
    print(f"opens in {', '.join(f'{each:.2f}' for each in times)} s; load {os.getloadavg()[0]:.1f}")
    assert min(times) < OPENING_S


def test_collect_against_duckdb_reading_the_same_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prints how collect, statistics and tables included, compares with `read_json_auto` alone."""
    duckdb = pytest.importorskip("duckdb", reason="pip install duckdb")
    sweep = many(tmp_path / "sweep", RUNS, epochs=4, steps=STEPS, monkeypatch=monkeypatch)
    records_mb = sum(p.stat().st_size for p in sweep.folder.path.rglob("events*.jsonl")) / MEGABYTE
    lines = f"{sweep.folder.path}/runs/*/*/events*.jsonl"
    reading = f"create or replace table records as select * from read_json_auto('{lines}')"
    alone = min(seconds(lambda: duckdb.sql(reading)) for _ in range(3))
    cold = seconds(lambda: collect([sweep.folder.path], pictures=False))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(
        f"\n{RUNS} runs of {STEPS} steps, {records_mb:.0f} MB: duckdb {alone:.2f} s, collect {cold:.2f} s "
        f"({cold / alone:.1f} times), peak {peak_mb:.0f} MB, load {os.getloadavg()[0]:.1f}"
    )
    assert cold < 40 * alone
