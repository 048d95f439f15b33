"""`hpcbench doctor`: runs all checks and prints them as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

from hpcbench.doctor.machine_checks import (
    CheckResult,
    CheckState,
    check_data,
    check_machine,
    check_slurm,
    check_torch,
    parse_image_to_try,
)
from hpcbench.doctor.runtime_checks import check_runtimes, try_image
from hpcbench.launch.machine_resources import this_machine
from hpcbench.sweep.catalog_entries import Catalog

CHECK_STYLES = {CheckState.FINE: "green", CheckState.ABSENT: "dim", CheckState.WRONG: "bold red"}


def run_doctor(catalog: Catalog, *, data_root: str | None, tried: Sequence[str], as_json: bool) -> int:
    """Look around and print what was found; returns 1 where something is wrong."""
    wanted = [parse_image_to_try(each) for each in tried]
    machine = this_machine()
    checks = [
        *check_machine(machine),
        *check_torch(machine),
        *check_slurm(),
        *check_runtimes(gpus=bool(machine.gpus)),
        *check_data(catalog, data_root),
        *(try_image(runtime, image) for runtime, image in wanted),
    ]
    if as_json:
        print(json.dumps({"checks": [check.to_json() for check in checks]}, indent=1))
    else:
        _print_checks(checks)
    return int(any(check.state is CheckState.WRONG for check in checks))


def _print_checks(checks: Sequence[CheckResult]) -> None:
    from rich.table import Table
    from rich.text import Text

    from hpcbench.cli.terminal_tables import console

    table = Table(box=None, pad_edge=False)
    for title in ("", "", "", "found", "what to do"):
        table.add_column(title, overflow="fold")
    area = None
    for check in checks:
        state = Text(check.state.value, style=CHECK_STYLES[check.state])
        first = check.area if check.area != area else ""
        table.add_row(first, check.name, state, Text(check.found), Text(check.advice or ""))
        area = check.area
    console().print(table)
