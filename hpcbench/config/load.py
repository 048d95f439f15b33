"""The door: sweep files in, frozen runs out, or one InputError that says what is wrong where.

files -> sections -> layers and grids -> resolved, named runs -> groups -> every repeat, interleaved
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from hpcbench.config.assemble import Assembler, Reader
from hpcbench.config.catalog import Catalog
from hpcbench.config.data import locate_data
from hpcbench.config.fields import Fields
from hpcbench.config.plan import Planned, Planner
from hpcbench.config.resolve import Resolver
from hpcbench.config.schema import did_you_mean, run_schema
from hpcbench.config.settings import read_settings
from hpcbench.config.single import read_run
from hpcbench.config.smoke import scaled_down
from hpcbench.config.spec import Group, RunSpec, Sweep
from hpcbench.config.unique import merge_same, refuse_same_id, refuse_too_many
from hpcbench.errors import Place, input_error

__all__ = ["dump_sweep", "load_run", "load_sweep"]


def load_sweep(
    files: Sequence[Path],
    catalog: Catalog,
    *,
    settings: Sequence[str] = (),
    only: Sequence[str] = (),
    default_gpus_per_node: int = 0,
    data_root: str | None = None,
    smoke: bool = False,
) -> Sweep:
    """Read sweep files; several are one sweep that includes them all, under the first one's name.

    `settings` are `--set KEY=VALUE`, `only` globs over run names, `data_root` is `--data`. A run that does
    not say how many GPUs a node gives it takes `default_gpus_per_node`; with `smoke` that is also what this
    machine has. Raises InputError for anything that cannot be used; nothing is written.
    """
    fields = Fields(run_schema(catalog), catalog)
    layers = read_settings(settings, fields.schema, general=True)
    reader = Reader(fields)
    roots = list(dict.fromkeys(reader.read(Path(path)) for path in files))
    first = reader.files[roots[0]]
    # A sweep that was submitted with --smoke says so itself when it is read back.
    gpus = default_gpus_per_node if smoke else first.smoke_gpus
    resolver = Resolver(catalog, default_gpus_per_node)
    assembler = Assembler(reader, Planner(fields, resolver, layers, smoke=gpus is not None))
    assembler.refuse_too_many()
    planned = merge_same([run for root in roots for run in assembler.expand(root)])
    if not planned:
        raise input_error("the sweep has no runs", **first.document.at(("runs",)), hint="Add runs")
    refuse_too_many(planned)
    refuse_same_id(planned)
    chosen = _chosen(planned, only)
    sources = reader.files.values()
    used = {run.spec.dataset for run in chosen}
    sweep = Sweep(
        name=first.name,
        files=tuple(file.document.file for file in sources),
        runs=_interleaved(chosen),
        groups=_among(chosen, assembler.groups.values()),
        data=locate_data(sources, used, catalog, data_root, smoke=gpus is not None),
        pack=first.pack,
    )
    return sweep if gpus is None else _smoke(sweep, catalog, gpus)


def load_run(
    file: Path | None,
    catalog: Catalog,
    *,
    settings: Sequence[str] = (),
    default_gpus_per_node: int = 0,
    data_root: str | None = None,
    smoke: bool = False,
) -> RunSpec:
    """Read one run: a file with a run's fields, a run folder's spec.json, or nothing but settings.

    Takes the arguments of `load_sweep`; `data_root` changes nothing: where the data are is no part of a run.
    """
    fields = Fields(run_schema(catalog), catalog)
    layers = read_settings(settings, fields.schema, general=False)
    spec = read_run(file, Planner(fields, Resolver(catalog, default_gpus_per_node), layers, smoke=smoke))
    return scaled_down(spec, catalog, default_gpus_per_node) if smoke and not spec.smoke else spec


def _chosen(planned: Sequence[Planned], only: Sequence[str]) -> list[Planned]:
    names = [run.name for run in planned]
    for glob in only:
        if not any(fnmatchcase(name, glob) for name in names):
            raise input_error(
                "no run has such a name",
                place=Place("--only"),
                found=glob,
                hint=did_you_mean(glob, names) or f"Runs are: {', '.join(names[:10])}",
            )
    return [run for run in planned if not only or any(fnmatchcase(run.name, glob) for glob in only)]


def _interleaved(planned: Sequence[Planned]) -> tuple[RunSpec, ...]:
    """List every run's first repeat, then every run's second: what changes with time meets all alike."""
    most = max(run.repeats for run in planned)
    return tuple(run.specs[number] for number in range(most) for run in planned if number < run.repeats)


def _among(chosen: Sequence[Planned], groups: Iterable[Group]) -> tuple[Group, ...]:
    """Keep what is left of the groups after `--only`."""
    names = {run.name for run in chosen}
    left = (replace(group, runs=tuple(name for name in group.runs if name in names)) for group in groups)
    return tuple(group for group in left if group.runs)


def _smoke(sweep: Sweep, catalog: Catalog, gpus: int) -> Sweep:
    """Scale every run down, one repeat of each; the declared ones stand beside."""
    pairs = [(scaled_down(spec, catalog, gpus), spec) for spec in sweep.runs if spec.repeat == 0]
    return replace(
        sweep,
        runs=tuple(small for small, _ in pairs),
        declared={small.run_id: spec for small, spec in pairs},
        smoke_gpus=gpus,
    )
