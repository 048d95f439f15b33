"""Arguments of the commands that start and manage runs (submit, run, status, retry, cancel, clean) and
that examine this machine (probe, data, doctor).
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import fields
from pathlib import Path

from hpcbench.cli.arguments import (
    Commands,
    add_command,
    add_data_root,
    add_json,
    add_named_settings,
    add_results,
    add_results_of,
    add_settings,
    add_share,
    add_waiting,
    named_settings,
)
from hpcbench.cli.result_commands import show_ranking
from hpcbench.errors import INTERRUPTED, HpcbenchError

logger = logging.getLogger(__name__)


def add_submit(commands: Commands) -> None:
    """Add the command `submit`."""
    parser = add_command(
        commands, "submit", _submit, "do the runs of a sweep that are not done, and rank them"
    )
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
    add_share(parser)
    add_waiting(parser)
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
    from hpcbench.cli.submit_and_wait import SubmitOptions, submit
    from hpcbench.launch.submission import SubmitRequest

    if given.json and not given.dry_run:
        raise HpcbenchError("--json goes with --dry-run")
    # The options have the names of the fields.
    request = SubmitRequest(**{field.name: getattr(given, field.name) for field in fields(SubmitRequest)})
    options = SubmitOptions(**{field.name: getattr(given, field.name) for field in fields(SubmitOptions)})
    return submit(request, options, CATALOG, show_ranking)


def add_status(commands: Commands) -> None:
    """Add the command `status`."""
    parser = add_command(commands, "status", _status, "the state of every run")
    add = parser.add_argument
    add_results(parser)
    add("--watch", action="store_true", help="keep showing it until nothing is running or waiting")
    add_json(parser)


def _status(given: argparse.Namespace) -> int:
    from hpcbench.cli.manage_jobs import status

    if given.watch and given.json:
        raise HpcbenchError("--watch is for people, --json for programs: use one of them")
    return status(given.results, watch=given.watch, as_json=given.json)


def add_retry(commands: Commands) -> None:
    """Add the command `retry`."""
    parser = add_command(commands, "retry", _retry, "do again what is not done")
    add = parser.add_argument
    add_results(parser)
    add("--failed", action="store_true", help="only runs that failed")
    add("--lost", action="store_true", help="only runs whose job ended without a record")
    add("--exclude-failed-nodes", action="store_true", help="Slurm: not on nodes on which these runs died")
    add("--more", type=float, metavar="X", help="X times the time or memory, where that was too little")
    add_share(parser)
    add_waiting(parser)


def _retry(given: argparse.Namespace) -> int:
    from hpcbench.catalog import CATALOG
    from hpcbench.cli.manage_jobs import retry
    from hpcbench.launch.retry import RETRIED_STATES, RetryRequest
    from hpcbench.runs.run_status import BAD_STATES

    request = RetryRequest(
        states=tuple(state for state in BAD_STATES if getattr(given, state)) or RETRIED_STATES,
        presume_silent_dead=given.lost,
        shared=given.shared,
        exclude_failed_nodes=given.exclude_failed_nodes,
        more=given.more,
    )
    return retry(given.results, request, CATALOG, show_ranking, detach=given.detach)


def add_cancel(commands: Commands) -> None:
    """Add the command `cancel`."""
    add_results(add_command(commands, "cancel", _cancel, "end the jobs of these results"))


def _cancel(given: argparse.Namespace) -> int:
    from hpcbench.cli.manage_jobs import cancel

    return cancel(given.results)


def add_clean(commands: Commands) -> None:
    """Add the command `clean`."""
    add_results(
        add_command(commands, "clean", _clean, "remove files that no command needs any more; never records")
    )


def _clean(given: argparse.Namespace) -> int:
    from hpcbench.cli.manage_jobs import clean

    return clean(given.results)


def add_run(commands: Commands) -> None:
    """Add the command `run`."""
    parser = add_command(commands, "run", _run, "one run, here and now; also under torchrun and srun")
    add = parser.add_argument
    add("file", nargs="?", type=Path, metavar="SPEC.yaml", help="a run's fields, or the spec.json of a run")
    add("--out", type=Path, required=True, metavar="DIR", help="becomes the run's folder")
    add_named_settings(parser)
    add_data_root(parser)


def _run(given: argparse.Namespace) -> int:
    from hpcbench.catalog import CATALOG
    from hpcbench.launch.single_run import run_here

    status, done_before = run_here(
        given.file, named_settings(given), given.out, CATALOG, data_root=given.data
    )
    if done_before:
        print(f"{status.name}: done already, in {given.out}")
        return 0
    if status.state == "done":
        limit = f" (out of {status.limit}, which is a result)" if status.limit else ""
        print(f"{status.name}: done in {status.wall_s or 0:.1f} s{limit}, records in {given.out}")
        return 0
    for line in status.last_lines:
        print(f"    {line}", file=sys.stderr)
    logger.error("%s: %s: %s", status.name, status.state, status.reason)
    return INTERRUPTED if status.state == "interrupted" else 1


def add_probe(commands: Commands) -> None:
    """Add the command `probe`."""
    parser = add_command(
        commands, "probe", _probe, "what this node can do at most: model, loader, link, each alone"
    )
    add = parser.add_argument
    add("sweep", nargs="?", type=Path, metavar="SWEEP.yaml", help="for all recipes of a sweep")
    add_named_settings(parser)
    add_results_of(parser, "with a sweep: where it has its results")
    add("--out", type=Path, metavar="FILE", help="add the ceilings to this file instead")
    add_data_root(parser)
    add_json(parser)


def _probe(given: argparse.Namespace) -> int:
    from hpcbench.catalog import CATALOG
    from hpcbench.cli.ceiling_output import run_probe_command
    from hpcbench.launch.ceiling_probing import ProbeRequest

    wanted = ProbeRequest(
        sweep=given.sweep, settings=named_settings(given), results=given.results, out=given.out,
        data=given.data, json=given.json,
    )  # fmt: skip
    return run_probe_command(wanted, CATALOG)


def add_data(commands: Commands) -> None:
    """Add the command `data`."""
    what = "data sets: what is there, what is missing, how to get it"
    nested = commands.add_parser("data", help=what, description=f"{what.capitalize()}.").add_subparsers(
        metavar="check", required=True
    )
    parser = add_command(
        nested, "check", _check_data, "whether a data set is there and complete; how to get it"
    )
    add = parser.add_argument
    add("name", metavar="NAME", help="cifar10, cifar100, imagenet, imagefolder, ...")
    add_data_root(parser, "the folder with a folder of that name")
    add("--decode", action="store_true", help="try every picture as well, which takes a while")
    add_json(parser)


def _check_data(given: argparse.Namespace) -> int:
    from hpcbench.tasks.data_check import check_data_under

    report = check_data_under(given.name, given.data, decode=given.decode)
    print(json.dumps(report.to_json()) if given.json else "\n".join(report.lines()))
    return 0 if report.is_complete else 1


def add_doctor(commands: Commands) -> None:
    """Add the command `doctor`."""
    parser = add_command(
        commands, "doctor", _doctor, "what this machine has, what is wrong with it, and what to do"
    )
    add = parser.add_argument
    add(
        "--write-profile", type=Path, metavar="FILE", help="draft a profile from what Slurm says of its nodes"
    )
    add("--partition", metavar="NAME", help="with --write-profile: for which partition (the default one)")
    add_data_root(parser)
    add(
        "--try",
        action="append",
        default=[],
        dest="tried",
        metavar="RUNTIME=IMAGE",
        help="do a short run in it",
    )
    add_json(parser)


def _doctor(given: argparse.Namespace) -> int:
    from hpcbench.catalog import CATALOG

    if given.write_profile:
        from hpcbench.doctor.profile_draft import write_profile

        path = write_profile(given.write_profile, given.partition)
        print(f"drafted {path}: look it over, then hpcbench submit SWEEP.yaml --profile {path}")
        return 0
    from hpcbench.cli.doctor_command import run_doctor

    return run_doctor(CATALOG, data_root=given.data, tried=given.tried, as_json=given.json)
