"""What `hpcbench probe` and `hpcbench predict` do and print."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from functools import singledispatch
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hpcbench.analysis.limit_analysis import SweepRunPrediction, predict_runs, prediction_error_lines
from hpcbench.analysis.results_loading import load_results
from hpcbench.catalog import MODEL_BLOCKS
from hpcbench.ceilings.ceiling_records import (
    Ceiling,
    ComputeCeiling,
    CopyCheck,
    InputCeiling,
    LinkCeiling,
    MatrixCeiling,
    MeasuredCeiling,
    TransferCeiling,
    append_ceiling_lines,
    newest_ceilings,
    read_all_ceilings,
)
from hpcbench.ceilings.node_ceilings import Ceilings
from hpcbench.ceilings.step_prediction import MissingCeiling, StepPrediction
from hpcbench.cli.ranking_output import to_console_encoding
from hpcbench.errors import INTERRUPTED, input_error
from hpcbench.launch.ceiling_probing import (
    ProbeRequest,
    describe_obstacles,
    logger,
    measure_requested_probes,
    plan_requested_probes,
)
from hpcbench.launch.machine_queue import is_machine_busy
from hpcbench.report.table_cells import EMPTY_CELL, format_number
from hpcbench.runs.results_folder import ResultsFolder
from hpcbench.sweep.catalog_entries import Catalog
from hpcbench.sweep.run_spec import Sweep


def run_probe_command(request: ProbeRequest, catalog: Catalog) -> int:
    """Measure, write and print; returns 1 where something could not be measured or a copy arrives broken.

    Raises OSError where `out` can't be written, before anything is measured for it.
    """
    requested = plan_requested_probes(request, catalog)
    if requested.obstacles:
        logger.info("left out: %s", describe_obstacles(requested.obstacles))
    if request.out:
        append_ceiling_lines(request.out, [])
    if is_machine_busy():
        logger.warning("a job is running on this machine: the measured values are not upper bounds")
    result = measure_requested_probes(requested, request.out)
    _print_ceilings(result.measured, request.json)
    for reason in result.failures:
        logger.error("not all could be measured: %s", reason)
    broken = any(
        isinstance(record.ceiling, CopyCheck) and record.ceiling.broken for record in result.measured
    )
    return INTERRUPTED if result.stopped else int(bool(result.failures) or broken)


def _print_ceilings(measured: Sequence[MeasuredCeiling], as_json: bool) -> None:
    records = newest_ceilings(measured)
    if as_json:
        lines = [{"ceiling": r.ceiling.kind, "host": r.host, **asdict(r.ceiling)} for r in records]
        print(json.dumps({"ceilings": lines}, indent=1))
        return
    from hpcbench.cli.terminal_tables import console

    console().print(ceilings_table(records))


def ceilings_table(records: Sequence[MeasuredCeiling]) -> Table:
    """Return a table of ceilings in the order in which they were measured."""
    table = Table()
    for column in ("host", "ceiling", "of what", "figure"):
        table.add_column(column)
    for record in records:
        what, figure = describe_ceiling(record.ceiling)
        table.add_row(record.host, record.ceiling.kind.removesuffix("_ceiling"), what, figure)
    return table


@singledispatch
def describe_ceiling(ceiling: Ceiling) -> tuple[str, str]:
    """Return what was measured, and the figure."""
    raise AssertionError(f"no words for {ceiling.kind}")


@describe_ceiling.register
def _(ceiling: ComputeCeiling) -> tuple[str, str]:
    at_once = "alone" if ceiling.ranks == 1 else f"{ceiling.ranks} at once"
    what = f"{ceiling.model} on {ceiling.dataset}, {ceiling.precision}, batch {ceiling.batch}, {at_once}"
    gigaflop = ceiling.flop_per_image * ceiling.images_per_s / 1e9
    return what, f"{ceiling.images_per_s:,.0f} img/s each ({gigaflop:,.1f} GFLOP/s)"


@describe_ceiling.register
def _(ceiling: InputCeiling) -> tuple[str, str]:
    what = (
        f"{ceiling.dataset}, cache {ceiling.cache}, {ceiling.workers} workers, batch {ceiling.batch}, "
        f"{ceiling.ranks} ranks"
    )
    return what, f"{ceiling.images_per_s:,.0f} img/s together"


@describe_ceiling.register
def _(ceiling: TransferCeiling) -> tuple[str, str]:
    fastest = ceiling.size_bytes[-1] / statistics.median(ceiling.seconds[-1])
    return f"host to {ceiling.device}, {'' if ceiling.pinned else 'not '}pinned", f"{fastest / 1e9:.1f} GB/s"


@describe_ceiling.register
def _(ceiling: LinkCeiling) -> tuple[str, str]:
    what = f"{ceiling.operation}, {ceiling.backend}, {ceiling.ranks} ranks on {ceiling.nodes} nodes"
    shortest, longest = (statistics.median(ceiling.seconds[at]) for at in (0, -1))
    size = ceiling.size_bytes[-1]
    return what, f"{shortest * 1e6:,.0f} us; {size / longest / 1e9:.2f} GB/s at {size / 2**20:g} MiB"


@describe_ceiling.register
def _(ceiling: MatrixCeiling) -> tuple[str, str]:
    at_once = "alone" if ceiling.ranks == 1 else f"{ceiling.ranks} at once"
    return f"products in {ceiling.precision}, {at_once}", f"{ceiling.flop_per_s / 1e12:,.3f} TFLOP/s each"


@describe_ceiling.register
def _(ceiling: CopyCheck) -> tuple[str, str]:
    told = f"BROKEN: {', '.join(ceiling.broken)}" if ceiling.broken else "all arrive as they were"
    return f"copies between {len(ceiling.pairs)} pairs of devices", told


def predict_sweep(
    sweep: Sweep, results: Path, ceilings_file: Path | None, *, as_json: bool, console: Console
) -> int:
    """Print the predictions of a sweep's runs; returns the exit status.

    Ceilings come from a file, else from the sweep's results. Raises InputError where there are none.
    """
    folder = ResultsFolder(results / sweep.name)
    loaded = load_results([folder.path], blocks=MODEL_BLOCKS) if (folder.path / "runs").is_dir() else None
    ceilings = _ceilings_for(folder, ceilings_file)
    found = predict_runs(sweep, ceilings, loaded)
    if as_json:
        print(json.dumps({"runs": [each.to_json() for each in found]}, ensure_ascii=False, indent=2))
    else:
        _print_predictions(found, console)
    return 0


def _ceilings_for(folder: ResultsFolder, file: Path | None) -> Ceilings:
    records = read_all_ceilings([file] if file else folder.ceiling_files())
    if not records:
        where = str(file or folder.ceilings)
        raise input_error(
            "no ceilings to predict from", key=where,
            hint="Measure them on the node that the runs are for: hpcbench probe SWEEP.yaml --out FILE",
        )  # fmt: skip
    return Ceilings.of(records, MODEL_BLOCKS)


PREDICTION_HEADS = ("run", "ranks", "step ms", "samples/s", "limit", "measured ms", "error %", "assumed")


def _print_predictions(found: Sequence[SweepRunPrediction], console: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for place, head in enumerate(PREDICTION_HEADS):
        table.add_column(
            head, justify="left" if place in (0, 4, 7) else "right", no_wrap=place < len(PREDICTION_HEADS) - 1
        )
    for each in found:
        for row, dim in _prediction_rows(each):
            table.add_row(
                *(Text(to_console_encoding(cell, console)) for cell in row), style="dim" if dim else None
            )
    console.print(table)
    for line in prediction_error_lines(found):
        console.print(Text(to_console_encoding(line, console)), soft_wrap=True)


def _prediction_rows(each: SweepRunPrediction) -> list[tuple[tuple[str, ...], bool]]:
    """Return the rows of a run: itself, and dimmed the other numbers of ranks."""
    name, ranks, measured = each.spec.name, str(each.spec.ranks), _milliseconds(each.measured_step_s)
    if isinstance(each.prediction, MissingCeiling):
        return [((name, ranks, *[EMPTY_CELL] * 3, measured, EMPTY_CELL, each.prediction.missing), False)]
    error = EMPTY_CELL if each.error_pct is None else f"{each.error_pct:+.0f}"
    own = (name, ranks, *_prediction_cells(each.prediction), measured, error, _assumed(each.prediction))
    others = [
        (
            "",
            str(other.ranks),
            *_prediction_cells(other.prediction),
            EMPTY_CELL,
            EMPTY_CELL,
            _assumed(other.prediction),
        )
        for other in each.projected
        if other.ranks != each.spec.ranks
    ]
    return [(own, False), *((other, True) for other in others)]


def _prediction_cells(prediction: StepPrediction) -> tuple[str, str, str]:
    return _milliseconds(prediction.step_s), format_number(prediction.samples_s), prediction.limit.value


def _assumed(prediction: StepPrediction) -> str:
    left_out = [f"without {each}" for each in prediction.left_out]
    marked = ["extrapolated"] if prediction.extrapolated else []
    return "; ".join([*marked, *prediction.assumed, *left_out])


def _milliseconds(seconds: float | None) -> str:
    return EMPTY_CELL if seconds is None else format_number(1000 * seconds)
