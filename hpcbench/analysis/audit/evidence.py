"""What the rules judge: the finished repeats of each row, and what is compared with what.

Only finished repeats are evidence. A run that failed has no figure that anybody could trust too much.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from hpcbench.analysis.audit.findings import Observation
from hpcbench.analysis.ceilings import Ceilings
from hpcbench.analysis.figures import Figures, accuracy_pct
from hpcbench.analysis.history import History, State
from hpcbench.analysis.windows import Windows
from hpcbench.config.spec import Group, RunSpec

if TYPE_CHECKING:
    from hpcbench.analysis.load import Loaded

V = TypeVar("V", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """One finished repeat of a row.

    Rules about repeats see all of its history while its records are read. What they saw, `observed` by their
    codes, is kept with the figures and the first losses; rules about rows and comparisons see these, and no
    windows any more.
    """

    experiment: str
    spec: RunSpec
    history: History
    figures: Figures | None = None
    first_losses: tuple[float, ...] = ()
    observed: Mapping[str, Observation] = field(default_factory=dict)

    @property
    def counted(self) -> Windows:
        """The windows that count for speed."""
        return self.history.windows.counted

    def accuracies(self) -> dict[int, float]:
        """Return the validation accuracy after each epoch, in per cent."""
        known = ((epoch, accuracy_pct(parts)) for epoch, parts in self.history.evaluations.items())
        return {epoch: accuracy for epoch, accuracy in known if accuracy is not None}


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """A row of the ranking: the finished repeats of one run, at least one."""

    experiment: str
    repeats: tuple[Repeat, ...]

    @property
    def spec(self) -> RunSpec:
        """The run, with the seed of its first finished repeat."""
        return self.repeats[0].spec


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Rows that stand beside each other. `factor` is what a group says that it compares; a class has none."""

    title: str
    rows: tuple[RunRow, ...]
    factor: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything that is audited."""

    rows: tuple[RunRow, ...] = ()
    classes: tuple[Comparison, ...] = ()
    groups: tuple[Comparison, ...] = field(default=())
    ceilings: Ceilings = field(default_factory=Ceilings)


def evidence(loaded: Loaded, groups: Sequence[Group] = ()) -> Evidence:
    """Return what can be judged of results folders, and how it is compared."""
    repeats: dict[str, list[Repeat]] = defaultdict(list)
    names: dict[str, set[str]] = defaultdict(set)  # as a sweep says it -> as the ranking does
    for experiment, run in loaded.keyed:
        if run.spec is not None and run.history.state is State.FINISHED:
            kept = run.digest
            repeats[experiment].append(
                Repeat(
                    experiment=experiment, spec=run.spec, history=run.history, figures=kept.figures,
                    first_losses=kept.first_losses, observed=kept.observed,
                )
            )  # fmt: skip
            names[run.name].add(experiment)
    rows = {name: RunRow(experiment=name, repeats=tuple(found)) for name, found in sorted(repeats.items())}
    return Evidence(
        rows=tuple(rows.values()), classes=_classes(rows.values()),
        groups=tuple(_groups(rows, names, groups)), ceilings=loaded.ceilings,
    )  # fmt: skip


def _classes(rows: Iterable[RunRow]) -> tuple[Comparison, ...]:
    by_recipe: dict[str, list[RunRow]] = defaultdict(list)
    for row in rows:
        by_recipe[row.spec.recipe].append(row)
    return tuple(Comparison(title=recipe, rows=tuple(found)) for recipe, found in by_recipe.items())


def _groups(
    rows: Mapping[str, RunRow], names: Mapping[str, set[str]], groups: Sequence[Group]
) -> Iterable[Comparison]:
    for group in groups:
        members = [rows[name] for run in group.runs for name in sorted(names.get(run, ()))]
        yield Comparison(title=f"{group.id} ({group.title})", rows=tuple(members), factor=group.factor)


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested maps by dotted path."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def usual(values: Sequence[V]) -> V:
    """Return the most frequent of at least one value; of several equally frequent ones the first."""
    return Counter(values).most_common(1)[0][0]
