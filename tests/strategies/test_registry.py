"""The registry of strategies is the only place that knows what a strategy is like."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path

import pytest

import hpcbench
from hpcbench.strategies.strategy_registry import STRATEGIES, UNKNOWN, find_strategy
from hpcbench.sweep.catalog_entries import ModelSize, NoOptions, ProcessLayout, StrategyEntry, Traffic
from tests.audit.written import run

PACKAGE = Path(hpcbench.__file__).parent
KNOW_STRATEGIES = {"strategies", "teaching"}
REQUIRED = {
    "target", "processes", "traffic", "is_asynchronous", "steps_per_exchange", "exchange_after_backward",
    "waited_transfer", "exchange_can_be_left_out", "is_exact", "reference_rank", "splits_batch_on_devices",
    "stage_turns", "copies_through_host", "can_compile", "trains",
}  # fmt: skip
MODEL = ModelSize(parameter_bytes=4_000_000, parameter_tensors=10)


@pytest.mark.parametrize("name", sorted(REQUIRED))
def test_an_entry_that_leaves_a_property_open_is_an_error(name: str) -> None:
    """Whoever adds a strategy decides on everything that predictions, audit and ranking depend on."""
    complete = {field.name: getattr(UNKNOWN, field.name) for field in fields(StrategyEntry)}
    del complete[name]
    with pytest.raises(TypeError, match=name):
        StrategyEntry(**complete)


@pytest.mark.parametrize("name", STRATEGIES)
def test_properties_of_an_entry_have_values_of_their_kind(name: str) -> None:
    """Only a formula for traffic may be missing, and every function answers for a run of the strategy."""
    entry = STRATEGIES[name]
    assert all(getattr(entry, field.name) is not None for field in fields(entry) if field.name != "traffic")
    options = asdict(entry.options())
    spec = run(strategy=name, strategy_options=options)
    for given in (options, {}):
        assert entry.is_asynchronous(given) in (True, False)
        assert entry.exchange_after_backward(given) in (True, False)
        assert entry.steps_per_exchange(given) >= 1
        assert entry.count_servers(given) >= 0
        assert entry.server_device(given) in (None, "cpu", "gpu")
    assert entry.is_exact(spec) in (True, False) and entry.copies_through_host(spec) in (True, False)
    assert all(0 < factor < 10 for factor in entry.stage_turns(spec))
    assert entry.traffic is None or isinstance(entry.traffic(spec, MODEL), Traffic)
    assert (
        entry.waited_transfer(spec, MODEL) is None
        or entry.exchange_can_be_left_out
        or entry.count_servers({})
    )


def test_the_waited_transfer_is_among_the_traffic() -> None:
    """The lower bound that the audit uses never exceeds what the prediction sends in the exchange phase."""
    for name, entry in STRATEGIES.items():
        spec = run(strategy=name, ranks=2)
        waited = entry.waited_transfer(spec, MODEL)
        if waited and entry.traffic:
            sent = [t for t in entry.traffic(spec, MODEL).beside if t.operation == waited[0]]
            assert sum(t.size_bytes * t.times for t in sent) >= waited[1], name


def test_an_unknown_strategy_is_neither_predicted_nor_trusted() -> None:
    """Records may name strategies of another version."""
    entry = find_strategy("of_next_year")
    assert entry.traffic is None and entry.reference_rank == 0
    assert entry.processes is ProcessLayout.DATA_PARALLEL and entry.trains and not entry.teaching


def test_no_module_outside_of_strategies_branches_on_one_strategy() -> None:
    """A comparison with a strategy's name, or an option of one strategy, belongs into its entry."""
    found = [place for path in sorted(PACKAGE.rglob("*.py")) for place in _branches(path)]
    assert found == []


def test_branches_are_found(tmp_path: Path) -> None:
    """The search sees comparisons, memberships, mappings and options."""
    source = tmp_path / "module.py"
    source.write_text(
        "a = spec.strategy == 'ddp'\n"
        "b = row['strategy'] not in ('dp', 'ps')\n"
        "c = spec.strategy_options.get('mode')\n"
        "d = spec.strategy_options['servers']\n"
        "X = ('ddp', 'single_gpu')\n"
        "fine = spec.model == 'resnet18'\n"
    )
    lines = {int(place.rsplit(":", 1)[1]) for place in _branches(source, tmp_path)}
    assert lines == {1, 2, 3, 4, 5}


def _branches(path: Path, package: Path = PACKAGE) -> Iterator[str]:
    """Yield where a module compares strategies by name, reads an option, or lists several names."""
    relative = path.relative_to(package)
    if relative.parts[0] in KNOW_STRATEGIES:
        return
    option_names = {
        f.name
        for entry in STRATEGIES.values()
        if entry.options is not NoOptions
        for f in fields(entry.options)
    }
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Compare():
                names = _strings(node) & set(STRATEGIES)
                hit = any(_is_strategy(side) for side in (node.left, *node.comparators)) and bool(names)
            case ast.Tuple() | ast.List() | ast.Set() | ast.Dict():
                hit = len(_strings(node) & set(STRATEGIES)) > 1
            case ast.Call(func=ast.Attribute(attr="get", value=ast.Attribute(attr="strategy_options"))):
                hit = bool(_strings(node) & option_names)
            case ast.Subscript(value=ast.Attribute(attr="strategy_options")):
                hit = bool(_strings(node.slice) & option_names)
            case _:
                hit = False
        if hit:
            yield f"{relative}:{node.lineno}"


def _is_strategy(node: ast.AST) -> bool:
    """Say whether an expression is `x.strategy`, `strategy` or `x["strategy"]`."""
    match node:
        case ast.Attribute(attr="strategy") | ast.Name(id="strategy"):
            return True
        case ast.Subscript(slice=ast.Constant(value="strategy")):
            return True
    return False


def _strings(node: ast.AST) -> set[str]:
    return {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
