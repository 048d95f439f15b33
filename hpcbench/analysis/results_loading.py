"""Reads results folders into data frames, labels the classes of runs that a ranking may compare, and reads
the groups of a sweep.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jsonlines
import pandas as pd
import yaml

from hpcbench.analysis import figure_registry, result_rows
from hpcbench.analysis.digest_reading import DigestCache, FileState, RunReference, read_digests
from hpcbench.analysis.run_digest import RunDigest
from hpcbench.analysis.run_figures import RunChecks, RunFigures
from hpcbench.analysis.run_history import RecordedState, RunHistory
from hpcbench.analysis.step_tables import load_step_tables
from hpcbench.ceilings.ceiling_records import read_all_ceilings
from hpcbench.ceilings.node_ceilings import Ceilings
from hpcbench.errors import SourcePlace, input_error
from hpcbench.runs import ledger
from hpcbench.runs.results_folder import ResultsFolder, open_results_folder
from hpcbench.sweep.run_spec import NOT_IDENTITY, NOT_RECIPE, Group, RunSpec, flatten_fields


@dataclass(frozen=True, kw_only=True)
class LoadedRun:
    """One repeat of one run, as found in a results folder.

    `block` names the repeats that stood close in time: the same repeat of the same folder.
    """

    name: str
    repeat: int
    folder: ResultsFolder
    look: FileState  # how its files looked before they were read
    digest: RunDigest

    @property
    def run_id(self) -> str:
        """The id that its spec.json states, empty where that can't be read."""
        return self.digest.run_id

    @property
    def spec(self) -> RunSpec | None:
        """What was to be done; None where that can't be read."""
        return self.digest.spec

    @property
    def history(self) -> RunHistory:
        """What happened, without its large parts."""
        return self.digest.history

    @property
    def figures(self) -> RunFigures | None:
        """Its figures; None where its records can't be read."""
        return self.digest.figures

    @property
    def block(self) -> str:
        """The repeats that were run side by side with this one."""
        return f"{self.folder.path}/r{self.repeat}"

    @property
    def place(self) -> str:
        """Where the run stands, for messages."""
        return f"{self.name}/r{self.repeat}"

    @property
    def configuration(self) -> str:
        """What all repeats of a run have in common and no other run has; empty without a spec."""
        return self.spec.configuration_id if self.spec else ""


@dataclass(frozen=True)
class LoadedResults:
    """All that results folders hold, as frames, and what was wrong with them, in sentences.

    `keyed` are the runs themselves with the names that they have in the frames, `ceilings` what their nodes
    can do at most.
    """

    runs: pd.DataFrame
    epochs: pd.DataFrame
    problems: list[str]
    keyed: list[tuple[str, LoadedRun]]
    ceilings: Ceilings = field(default_factory=Ceilings)

    @cached_property
    def steps(self) -> pd.DataFrame:
        """The steps of all runs: millions of rows, concatenated on first use."""
        tables = load_step_tables([run.digest.steps for _, run in self.keyed])
        return result_rows.step_frame(
            [(_key_columns(name, run), table) for (name, run), table in zip(self.keyed, tables, strict=True)]
        )


def load_results(
    folders: Sequence[Path],
    *,
    checks: RunChecks | None = None,
    blocks: Mapping[str, int] | None = None,
    cache: DigestCache | None = None,
) -> LoadedResults:
    """Read results folders; runs that the cache has are not read again.

    `checks` are applied to each finished run. `blocks` is into how many parts each model can be cut, which a
    prediction of sharded runs needs.
    Raises InputError where a folder holds no results; broken records are problems, not errors.
    """
    problems: list[str] = []
    # A folder that is named twice is read once, at its last place.
    distinct = list(reversed(dict.fromkeys(path.resolve() for path in reversed(folders))))
    there = [each for path in distinct for each in _references(open_results_folder(path), problems)]
    found = [
        LoadedRun(name=each.name, repeat=each.repeat, folder=each.results, look=look, digest=digest)
        for each, (look, digest) in zip(there, read_digests(there, cache, checks or {}), strict=True)
    ]
    runs = _without_duplicates(found, problems)
    names = _experiment_names(runs, problems)
    for run in runs:
        problems += [f"{run.place}: {problem}" for problem in run.history.problems]
    labels = label_classes(run.spec for run in runs if run.spec)
    keyed = [(names[run.name, run.configuration], run) for run in runs]
    ceiling_files = [file for path in distinct for file in ResultsFolder(path).ceiling_files()]
    return LoadedResults(
        result_rows.sorted_table(
            [_run_row(name, run, labels) for name, run in keyed],
            figure_registry.RUN_COLUMNS,
            ("experiment", "repeat"),
        ),
        result_rows.sorted_table(
            [{**_key_columns(name, run), **row} for name, run in keyed for row in run.digest.epochs],
            figure_registry.EPOCH_COLUMNS,
            ("experiment", "repeat", "epoch"),
        ),
        problems,
        keyed,
        Ceilings.of(read_all_ceilings(ceiling_files, problems), blocks or {}),
    )


def _key_columns(name: str, run: LoadedRun) -> figure_registry.Row:
    return {"experiment": name, "repeat": run.repeat, "run_id": run.run_id}


def _run_row(name: str, run: LoadedRun, labels: dict[str, str]) -> figure_registry.Row:
    at = run.folder.run(run.name, run.repeat).path
    common = {**_key_columns(name, run), "sweep": run.folder.path.name, "block": run.block, "folder": str(at)}
    return {**common, **result_rows.run_row(run.history, run.spec, run.figures, labels)}


def _references(folder: ResultsFolder, problems: list[str]) -> list[RunReference]:
    claims: dict[str, set[int]] = defaultdict(set)
    try:
        for _, entry in ledger.read_ledger(folder.ledger):
            if isinstance(entry, ledger.AttemptClaimed):
                claims[entry.run].add(entry.attempt)
    except (jsonlines.Error, OSError, AttributeError, KeyError, TypeError) as error:
        # The claims beside the records say the same; without the ledger nothing is lost but history.
        problems.append(f"{folder.ledger}: not readable ({error!r}); the claims in the run folders were used")
    return [
        RunReference(folder, name, repeat, at, frozenset(claims[f"{name}/r{repeat}"]))
        for name, repeat, at in folder.runs()
    ]


def _without_duplicates(runs: list[LoadedRun], problems: list[str]) -> list[LoadedRun]:
    """Keep one run of each run id: a finished one before others, then the one of the later folder."""
    kept: dict[str, LoadedRun] = {}
    for index, run in enumerate(runs):
        key = run.run_id or f"unreadable {index}"
        other = kept.get(key)
        if other is None:
            kept[key] = run
            continue
        finished = RecordedState.FINISHED
        older_wins = other.history.state == finished and run.history.state != finished
        winner, loser = (other, run) if older_wins else (run, other)
        kept[key] = winner
        problems.append(
            f"{run.place}: found twice (run id {run.run_id}): the one in {winner.folder.path} counts "
            f"({winner.history.state}), the one in {loser.folder.path} ({loser.history.state}) does not"
        )
    return list(kept.values())


def _experiment_names(runs: list[LoadedRun], problems: list[str]) -> dict[tuple[str, str], str]:
    """Return the row name of each (name, configuration); one name for two things gets the sweep added."""
    places = {(run.name, run.configuration): run.folder.path.name for run in runs}
    uses = Counter(name for name, configuration in places if configuration)
    names: dict[tuple[str, str], str] = {}
    for (name, configuration), sweep in places.items():
        wanted = name
        if configuration and uses[name] > 1:
            wanted = f"{name} ({sweep})"
            if wanted in names.values():
                wanted = f"{name} ({sweep}, {configuration[:6]})"
        names[name, configuration] = wanted
    problems += [f"{name}: {n} different runs have this name" for name, n in uses.items() if n > 1]
    return names


def label_classes(specs: Iterable[RunSpec]) -> dict[str, str]:
    """Return a readable label for each recipe, such as `digits/smallconv/gb64`.

    Where recipes share data set, model and global batch, what else differs between them is added
    (`digits/smallconv/gb64/epochs=5`).
    """
    one_of = {spec.recipe: spec for spec in specs}
    alike: dict[str, dict[str, RunSpec]] = defaultdict(dict)
    for recipe, spec in sorted(one_of.items()):
        alike[_base_label(spec)][recipe] = spec
    return {recipe: label for base, group in alike.items() for recipe, label in _labels(base, group).items()}


def _base_label(spec: RunSpec) -> str:
    marks = [mark for mark in ("smoke", "teaching") if getattr(spec, mark)]
    model = f"{spec.model}-{spec.stem}" if spec.stem else spec.model
    return "/".join([*marks, spec.dataset, model, f"gb{spec.global_batch}"])


def _labels(base: str, group: dict[str, RunSpec]) -> dict[str, str]:
    if len(group) == 1:
        return dict.fromkeys(group, base)
    learnt = {recipe: _recipe_fields(spec) for recipe, spec in group.items()}
    keys = sorted({key for fields in learnt.values() for key in fields})
    differing = [key for key in keys if len({repr(fields.get(key)) for fields in learnt.values()}) > 1]
    return {
        recipe: "/".join([base, ",".join(f"{key}={fields.get(key)}" for key in differing)])
        for recipe, fields in learnt.items()
    }


def _recipe_fields(spec: RunSpec) -> dict[str, Any]:
    flat = flatten_fields(spec.to_json())
    left_out = (*NOT_IDENTITY, *NOT_RECIPE)
    return {
        key: value for key, value in flat.items() if key not in left_out and key.split(".")[0] not in left_out
    }


def read_groups(path: Path) -> tuple[Group, ...]:
    """Return the groups that a resolved sweep lists; none where there is no such file.

    Raises InputError for a file that is no resolved sweep.
    """
    if not path.exists():
        return ()
    try:
        sweep = yaml.safe_load(path.read_bytes()) or {}
        return tuple(_group(item) for item in sweep.get("groups") or ())
    except (yaml.YAMLError, OSError, UnicodeError, AttributeError, KeyError, TypeError) as error:
        raise input_error(
            "the groups of this sweep cannot be read",
            place=SourcePlace(str(path)),
            key="groups",
            found=str(error),
            allowed="a list of maps with id, title, factor and runs",
        ) from error


def _group(item: dict[str, Any]) -> Group:
    factor = item["factor"]
    factors = (factor,) if isinstance(factor, str) else tuple(str(each) for each in factor)
    runs = tuple(str(run) for run in item["runs"])
    return Group(id=str(item["id"]), title=str(item["title"]), factor=factors, runs=runs)
