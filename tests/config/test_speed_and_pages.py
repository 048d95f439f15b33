"""Speed, imports, the quickstart sweep, and the documentation of the sweep format."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import hpcbench
from hpcbench.catalog import CATALOG
from hpcbench.sweep.sweep_loading import load_sweep
from hpcbench.sweep.sweep_sections import SECTIONS
from hpcbench.sweep.value_schema import MapSchema, map_of, run_schema
from tests.config.files import HEAD, load, names, refusal

ROOT = Path(hpcbench.__file__).parent.parent
PAGE = (ROOT / "docs" / "sweeps.md").read_text()
QUICKSTART = ROOT / "sweeps" / "quickstart.yaml"


def test_a_thousand_runs_load_in_under_two_seconds(tmp_path: Path) -> None:
    """A list of a thousand different runs, with a group of all, loads quickly."""
    runs = "".join(
        f"  - {{strategy: ddp, ranks: 2, optimizer: {{lr: {n / 1000}}}}}\n" for n in range(1, 1001)
    )
    group = "groups: [{id: g, factor: optimizer.lr, where: {ranks: 2}}]\n"
    text = f"{HEAD}defaults: {{repeats: 1}}\nruns:\n{runs}{group}"
    began = time.process_time()
    sweep = load(tmp_path, text)
    took_s = time.process_time() - began
    assert len(sweep.runs) == len(sweep.groups[0].runs) == 1000
    assert took_s < 2


def test_time_grows_with_the_runs_and_not_faster(tmp_path: Path) -> None:
    """Ten times the runs take about ten times as long."""

    def seconds(runs: int) -> float:
        grid = f"{{batch_size: {list(range(1, 11))}, seed: {list(range(runs // 10))}}}"
        text = f"{HEAD}runs: [{{strategy: noop, ranks: 1, repeats: 1, grid: {grid}}}]\n"
        began = time.process_time()
        assert len(load(tmp_path, text).runs) == runs
        return time.process_time() - began

    seconds(100)
    assert seconds(5000) < 30 * min(seconds(500) for _ in range(3))


def test_refusing_a_grid_costs_less_than_expanding_a_small_one(tmp_path: Path) -> None:
    """800,000 combinations are counted, not made."""

    def text(sizes: int, seeds: int) -> str:
        grid = f"{{batch_size: {list(range(1, sizes + 1))}, seed: {list(range(seeds))}}}"
        return f"{HEAD}runs: [{{strategy: noop, ranks: 1, repeats: 1, grid: {grid}}}]\n"

    began = time.process_time()
    assert "found 800000" in refusal(tmp_path, text(800, 1000))
    refused = time.process_time()
    assert len(load(tmp_path, text(50, 60)).runs) == 3000
    assert refused - began < time.process_time() - refused


def test_loading_imports_no_torch() -> None:
    """A login node has none."""
    code = (
        "import sys; from pathlib import Path; from hpcbench.catalog import CATALOG\n"
        "from hpcbench.sweep.sweep_loading import dump_sweep, load_sweep\n"
        "dump_sweep(load_sweep([Path(sys.argv[1])], CATALOG))\n"
        "heavy = {'torch', 'torchvision', 'sklearn', 'numpy', 'pandas', 'matplotlib', 'submitit'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or None)"
    )
    subprocess.run([sys.executable, "-c", code, QUICKSTART], check=True)


def test_every_parameter_of_the_package_is_used() -> None:
    """A parameter that a function ignores misleads its callers."""
    folder = ROOT / "hpcbench" / "sweep"
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--select", "ARG001", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_quickstart_compares_five_ways_on_like_terms() -> None:
    """Five runs on CPUs with three repeats, one global batch and one group."""
    sweep = load_sweep([QUICKSTART], CATALOG)
    expected = [
        "single_gpu",
        "ddp",
        *(f"collective_{mode}" for mode in ("per_parameter", "bucketed", "overlapped")),
    ]
    assert (sweep.name, names(sweep), len(sweep.runs)) == ("quickstart", expected, 15)
    assert {run.global_batch for run in sweep.runs} == {64}
    assert {run.ranks for run in sweep.runs if run.strategy != "single_gpu"} == {2}
    assert {run.device for run in sweep.runs} == {"cpu"}
    assert len({run.recipe for run in sweep.runs}) == 1
    (group,) = sweep.groups
    assert (group.id, group.factor, list(group.runs)) == ("strategies", ("strategy",), expected)


def test_example_of_the_page_is_what_the_page_says(tmp_path: Path) -> None:
    """The first example has the runs that the text below it names."""
    match = re.search(r"```yaml\n(.*?)```\n\nThis is four runs, each three times: (.*?)\.\n", PAGE, re.DOTALL)
    assert match
    sweep = load(tmp_path, match[1])
    assert names(sweep) == re.findall(r"`([^`]+)`", match[2])
    assert len(sweep.runs) == 12


def test_page_has_every_field_name_and_option() -> None:
    """The page has every section, field, strategy, model, data set and option."""
    schema = run_schema(CATALOG)
    options = {entry.options for entry in CATALOG.strategies.values()}
    options |= {entry.options for entry in CATALOG.datasets.values()}
    words = {*SECTIONS, *schema.children, *CATALOG.strategies, *CATALOG.models, *CATALOG.datasets}
    words |= {word for kind in options for word in map_of(kind).children}
    words |= {
        word for node in schema.children.values() if isinstance(node, MapSchema) for word in node.children
    }
    missing = sorted(word for word in words if not re.search(rf"\b{word}\b", PAGE))
    assert not missing
