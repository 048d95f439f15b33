"""`hpcbench predict`: what the runs of a sweep should reach on a node, from its ceilings."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hpcbench.analysis.ceilings import Ceilings
from hpcbench.analysis.limits import LikeRuns, Standing, like, seen_in, standings
from hpcbench.analysis.load import Loaded, load
from hpcbench.analysis.predict import Prediction, Seen, Unknown, predict
from hpcbench.analysis.project import Projected, project
from hpcbench.config.spec import RunSpec, Sweep
from hpcbench.errors import RecordError, input_error
from hpcbench.records.ceiling_files import read_ceilings
from hpcbench.report.cells import NOTHING, number
from hpcbench.report.limits import MODEL_BLOCKS
from hpcbench.report.text import encodable
from hpcbench.runs.results_folder import ResultsFolder


@dataclass(frozen=True)
class Predicted:
    """A run of a sweep with its prediction, its measured step if any, and other numbers of ranks."""

    spec: RunSpec
    prediction: Prediction | Unknown
    measured_step_s: float | None
    projected: tuple[Projected, ...]

    @property
    def error_pct(self) -> float | None:
        """Predicted over measured step time, less 1, in per cent."""
        if self.measured_step_s is None or isinstance(self.prediction, Unknown):
            return None
        return 100 * (self.prediction.step_s / self.measured_step_s - 1)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        told: dict[str, Any] = {
            "name": self.spec.name, "strategy": self.spec.strategy, "ranks": self.spec.ranks,
            "measured_step_s": self.measured_step_s, "error_pct": self.error_pct,
        }  # fmt: skip
        if isinstance(self.prediction, Unknown):
            return told | {"predicted": None, "missing": self.prediction.missing, "projected": []}
        return told | {
            "predicted": _json(self.prediction),
            "missing": None,
            "projected": [{"ranks": each.ranks, **_json(each.prediction)} for each in self.projected],
        }


def predict_sweep(
    sweep: Sweep, results: Path, ceilings_file: Path | None, *, as_json: bool, console: Console
) -> int:
    """Print the predictions of a sweep's runs; returns the exit status.

    Ceilings come from a file, else from the sweep's results. Raises InputError where there are none.
    """
    folder = ResultsFolder(results / sweep.name)
    loaded = load([folder.path], blocks=MODEL_BLOCKS) if (folder.path / "runs").is_dir() else None
    ceilings = _ceilings(folder, ceilings_file, loaded)
    found = predictions(sweep, ceilings, loaded)
    if as_json:
        print(json.dumps({"runs": [each.to_json() for each in found]}, ensure_ascii=False, indent=2))
    else:
        _print(found, console)
    return 0


def predictions(sweep: Sweep, ceilings: Ceilings, loaded: Loaded | None) -> list[Predicted]:
    """Return a prediction for the first repeat of each run of a sweep, beside what was measured of it."""
    known = dataclasses.replace(loaded, ceilings=ceilings) if loaded else None
    seen: Mapping[LikeRuns, Seen] = seen_in(known) if known else {}
    measured = _measured(known) if known else {}
    found = []
    for spec in (run for run in sweep.runs if run.repeat == 0):
        here = ceilings.for_device(spec)
        standing = measured.get(_configuration(spec))
        found.append(
            Predicted(
                spec,
                standing.predicted if standing else predict(spec, here, seen.get(like(spec))),
                standing.step_s if standing else None,
                project(spec, here, seen.get(like(spec))),
            )
        )
    return found


def _measured(loaded: Loaded) -> dict[str, Standing]:
    return {_configuration(each.spec): each for each in standings(loaded).values()}


def _configuration(spec: RunSpec) -> str:
    return dataclasses.replace(spec, seed=0).run_id


def _ceilings(folder: ResultsFolder, file: Path | None, loaded: Loaded | None) -> Ceilings:
    files = [file] if file else folder.ceiling_files()
    try:
        records = [record for path in files for record in read_ceilings(path).records]
    except FileNotFoundError as error:
        raise input_error("no such file of ceilings", key=str(file)) from error
    except (OSError, UnicodeError) as error:
        raise RecordError(f"{file}: not readable ({error})") from error
    if not records:
        where = str(file or folder.ceilings)
        raise input_error(
            "no ceilings to predict from", key=where,
            hint="Measure them on the node that the runs are for: hpcbench probe SWEEP.yaml --out FILE",
        )  # fmt: skip
    return Ceilings.of(sorted(records, key=lambda record: record.time_ns), MODEL_BLOCKS)


def _json(prediction: Prediction) -> dict[str, Any]:
    told = dataclasses.asdict(prediction)
    return told | {"exposed_s": prediction.exposed_s, "extrapolated": prediction.extrapolated}


HEADS = ("run", "ranks", "step ms", "samples/s", "limit", "measured ms", "error %", "assumed")


def _print(found: Sequence[Predicted], console: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for place, head in enumerate(HEADS):
        table.add_column(
            head, justify="left" if place in (0, 4, 7) else "right", no_wrap=place < len(HEADS) - 1
        )
    for each in found:
        for row, dim in _rows(each):
            table.add_row(*(Text(encodable(cell, console)) for cell in row), style="dim" if dim else None)
    console.print(table)
    for line in summary(found):
        console.print(Text(encodable(line, console)), soft_wrap=True)


def _rows(each: Predicted) -> list[tuple[tuple[str, ...], bool]]:
    """Return the rows of a run: itself, and dimmed the other numbers of ranks."""
    name, ranks, measured = each.spec.name, str(each.spec.ranks), _ms(each.measured_step_s)
    if isinstance(each.prediction, Unknown):
        return [((name, ranks, *[NOTHING] * 3, measured, NOTHING, each.prediction.missing), False)]
    error = NOTHING if each.error_pct is None else f"{each.error_pct:+.0f}"
    own = (name, ranks, *_cells(each.prediction), measured, error, _assumed(each.prediction))
    others = [
        ("", str(other.ranks), *_cells(other.prediction), NOTHING, NOTHING, _assumed(other.prediction))
        for other in each.projected
        if other.ranks != each.spec.ranks
    ]
    return [(own, False), *((other, True) for other in others)]


def _cells(prediction: Prediction) -> tuple[str, str, str]:
    return _ms(prediction.step_s), number(prediction.samples_s), prediction.limit.value


def _assumed(prediction: Prediction) -> str:
    left_out = [f"without {each}" for each in prediction.left_out]
    marked = ["extrapolated"] if prediction.extrapolated else []
    return "; ".join([*marked, *prediction.assumed, *left_out])


def _ms(seconds: float | None) -> str:
    return NOTHING if seconds is None else number(1000 * seconds)


def summary(found: Sequence[Predicted]) -> list[str]:
    """Say for each strategy how far its predictions are off, where it was measured."""
    errors: dict[str, list[float]] = {}
    for each in found:
        if each.error_pct is not None:
            errors.setdefault(each.spec.strategy, []).append(each.error_pct)
    if not errors:
        return ["Nothing of this sweep was measured yet: how far these predictions are off is not known."]
    return [
        f"{strategy}: step time off by {statistics.median(map(abs, values)):.0f} % "
        f"(median of {len(values)}), {max(values, key=abs):+.0f} % at most"
        for strategy, values in sorted(errors.items())
    ]
