"""Verbs for the jobs of a sweep: submit, status, retry, cancel, clean."""

from __future__ import annotations

import argparse
from pathlib import Path

from hpcbench.cli.arguments import Verbs, add_json, add_results, add_results_of, add_settings, add_verb
from hpcbench.cli.show import rank
from hpcbench.errors import HpcbenchError


def add_submit(verbs: Verbs) -> None:
    """Add the verb `submit`."""
    parser = add_verb(verbs, "submit", _submit, "do the runs of a sweep that are not done, and rank them")
    add = parser.add_argument
    add("files", nargs="+", metavar="SWEEP.yaml", type=Path, help="sweep files; several are one sweep")
    add("--executor", choices=("auto", "slurm", "local"), help="where jobs go (auto)")
    add("--profile", metavar="NAME|FILE", help="what the cluster wants of jobs: partition, account, ...")
    add_results_of(parser, "where results go")
    add("--data", metavar="DIR", help="where the data sets are; else $HPCBENCH_DATA, else as the sweep says")
    add("--only", action="append", default=[], metavar="GLOB", help="only runs with such names; repeatable")
    add_settings(parser)
    add("--smoke", action="store_true", help="every run scaled down to seconds, on whatever machine this is")
    add("--dry-run", action="store_true", help="show what would be done, and why not; start nothing")
    add("--json", action="store_true", help="with --dry-run: as JSON")
    _add_share(parser)
    _add_waiting(parser)
    add("--force", action="store_true", help="set aside results of other runs with the same names")
    add("--yes", action="store_true", help="ask nothing")
    _add_packing(parser)
    add("--max-gpu-hours", type=float, metavar="N", help="refuse if the time limits allow more than this")


def _add_packing(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--pack",
        type=_pack,
        metavar="true|false|N",
        help="Slurm: one allocation for all runs on like nodes (true), one a run (false), or N of them",
    )
    add("--max-parallel", type=int, metavar="N", help="Slurm, --pack false: at most N runs at a time")
    add("--collect", action="store_true", help="Slurm: a last job collects when the others are over")


def _pack(text: str) -> bool | int:
    if text in ("true", "false"):
        return text == "true"
    if not text.isdigit() or text == "0":
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed: true, false, a number of allocations")
    return int(text)


def _submit(given: argparse.Namespace) -> int:
    from hpcbench.catalog import CATALOG
    from hpcbench.cluster.submission import Request, submit

    if given.json and not given.dry_run:
        raise HpcbenchError("--json goes with --dry-run")
    request = Request(
        files=tuple(given.files),
        results=given.results,
        executor=given.executor,
        data=given.data,
        only=tuple(given.only),
        settings=tuple(given.settings),
        smoke=given.smoke,
        dry_run=given.dry_run,
        json=given.json,
        shared=given.share,
        detach=given.detach,
        force=given.force,
        yes=given.yes,
        max_gpu_hours=given.max_gpu_hours,
        profile=given.profile,
        pack=given.pack,
        max_parallel=given.max_parallel,
        collect=given.collect,
    )
    return submit(request, CATALOG, rank)


def _add_share(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--share", action="store_true", help="let other shared jobs run beside this one, and mark its runs"
    )


def _add_waiting(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--wait",
        dest="detach",
        action="store_false",
        default=None,
        help="wait, and show the ranking at the end (the default on this machine)",
    )
    add("--detach", action="store_true", default=None, help="submit and leave (the default with Slurm)")


def add_status(verbs: Verbs) -> None:
    """Add the verb `status`."""
    parser = add_verb(verbs, "status", _status, "the truth about every run")
    add = parser.add_argument
    add_results(parser)
    add("--watch", action="store_true", help="keep showing it until nothing is running or waiting")
    add_json(parser)


def _status(given: argparse.Namespace) -> int:
    from hpcbench.cluster.manage import status

    if given.watch and given.json:
        raise HpcbenchError("--watch is for people, --json for programs: say one of them")
    return status(given.results, watch=given.watch, as_json=given.json)


def add_retry(verbs: Verbs) -> None:
    """Add the verb `retry`."""
    parser = add_verb(verbs, "retry", _retry, "do again what is not done")
    add = parser.add_argument
    add_results(parser)
    add("--failed", action="store_true", help="only runs that failed")
    add("--lost", action="store_true", help="only runs whose job died without a word")
    add("--exclude-failed-nodes", action="store_true", help="Slurm: not on nodes on which these runs died")
    add("--more", type=float, metavar="X", help="X times the time or memory, where that was too little")
    _add_share(parser)
    _add_waiting(parser)


def _retry(given: argparse.Namespace) -> int:
    from hpcbench.catalog import CATALOG
    from hpcbench.cluster.manage import retry

    return retry(
        given.results,
        CATALOG,
        rank,
        failed=given.failed,
        lost=given.lost,
        shared=given.share,
        detach=given.detach,
        exclude_failed_nodes=given.exclude_failed_nodes,
        more=given.more,
    )


def add_cancel(verbs: Verbs) -> None:
    """Add the verb `cancel`."""
    add_results(add_verb(verbs, "cancel", _cancel, "end the jobs of these results"))


def _cancel(given: argparse.Namespace) -> int:
    from hpcbench.cluster.manage import cancel

    return cancel(given.results)


def add_clean(verbs: Verbs) -> None:
    """Add the verb `clean`."""
    add_results(add_verb(verbs, "clean", _clean, "remove what nobody needs any more; never records"))


def _clean(given: argparse.Namespace) -> int:
    from hpcbench.cluster.manage import clean

    return clean(given.results)
