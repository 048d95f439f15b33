"""Ceilings for people: a line for each, with its figure in the unit that one thinks in."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import singledispatch

from rich.table import Table

from hpcbench.records.ceiling_files import MeasuredCeiling
from hpcbench.records.ceilings import (
    Ceiling,
    ComputeCeiling,
    CopyCheck,
    InputCeiling,
    LinkCeiling,
    MatrixCeiling,
    TransferCeiling,
)


def ceilings_table(records: Sequence[MeasuredCeiling]) -> Table:
    """Return a table of ceilings in the order in which they were measured."""
    table = Table()
    for column in ("host", "ceiling", "of what", "figure"):
        table.add_column(column)
    for record in records:
        what, figure = described(record.ceiling)
        table.add_row(record.host, record.ceiling.kind.removesuffix("_ceiling"), what, figure)
    return table


@singledispatch
def described(ceiling: Ceiling) -> tuple[str, str]:
    """Return what was measured, and the figure."""
    raise AssertionError(f"no words for {ceiling.kind}")


@described.register
def _(ceiling: ComputeCeiling) -> tuple[str, str]:
    at_once = "alone" if ceiling.ranks == 1 else f"{ceiling.ranks} at once"
    what = f"{ceiling.model} on {ceiling.dataset}, {ceiling.precision}, batch {ceiling.batch}, {at_once}"
    gigaflop = ceiling.flop_per_image * ceiling.images_per_s / 1e9
    return what, f"{ceiling.images_per_s:,.0f} img/s each ({gigaflop:,.1f} GFLOP/s)"


@described.register
def _(ceiling: InputCeiling) -> tuple[str, str]:
    what = (
        f"{ceiling.dataset}, cache {ceiling.cache}, {ceiling.workers} workers, batch {ceiling.batch}, "
        f"{ceiling.ranks} ranks"
    )
    return what, f"{ceiling.images_per_s:,.0f} img/s together"


@described.register
def _(ceiling: TransferCeiling) -> tuple[str, str]:
    fastest = ceiling.size_bytes[-1] / statistics.median(ceiling.seconds[-1])
    return f"host to {ceiling.device}, {'' if ceiling.pinned else 'not '}pinned", f"{fastest / 1e9:.1f} GB/s"


@described.register
def _(ceiling: LinkCeiling) -> tuple[str, str]:
    what = f"{ceiling.operation}, {ceiling.backend}, {ceiling.ranks} ranks on {ceiling.nodes} nodes"
    shortest, longest = (statistics.median(ceiling.seconds[at]) for at in (0, -1))
    size = ceiling.size_bytes[-1]
    return what, f"{shortest * 1e6:,.0f} us; {size / longest / 1e9:.2f} GB/s at {size / 2**20:g} MiB"


@described.register
def _(ceiling: MatrixCeiling) -> tuple[str, str]:
    at_once = "alone" if ceiling.ranks == 1 else f"{ceiling.ranks} at once"
    return f"products in {ceiling.precision}, {at_once}", f"{ceiling.flop_per_s / 1e12:,.3f} TFLOP/s each"


@described.register
def _(ceiling: CopyCheck) -> tuple[str, str]:
    told = f"BROKEN: {', '.join(ceiling.broken)}" if ceiling.broken else "all arrive as they were"
    return f"copies between {len(ceiling.pairs)} pairs of devices", told
