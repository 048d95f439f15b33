"""Verbs for the machine they are typed on: run, probe, data, doctor."""

from __future__ import annotations

import argparse
from pathlib import Path

from hpcbench.cli.arguments import (
    Verbs,
    add_data_root,
    add_json,
    add_named_settings,
    add_results_of,
    add_verb,
    named_settings,
)


def add_run(verbs: Verbs) -> None:
    """Add the verb `run`."""
    parser = add_verb(verbs, "run", _run, "one run, here and now; also under torchrun and srun")
    add = parser.add_argument
    add("file", nargs="?", type=Path, metavar="SPEC.yaml", help="a run's fields, or the spec.json of a run")
    add("--out", type=Path, required=True, metavar="DIR", help="becomes the run's folder")
    add_named_settings(parser)
    add_data_root(parser)


def _run(given: argparse.Namespace) -> int:
    from hpcbench.catalog import CATALOG
    from hpcbench.cluster.foreground import run_here

    return run_here(given.file, named_settings(given), given.out, CATALOG, data_root=given.data)


def add_probe(verbs: Verbs) -> None:
    """Add the verb `probe`."""
    parser = add_verb(
        verbs, "probe", _probe, "what this node can do at most: model, loader, link, each alone"
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
    from hpcbench.cluster.probe import Wanted, probe

    wanted = Wanted(
        sweep=given.sweep, settings=named_settings(given), results=given.results, out=given.out,
        data=given.data, json=given.json,
    )  # fmt: skip
    return probe(wanted, CATALOG)


def add_data(verbs: Verbs) -> None:
    """Add the verb `data`."""
    what = "data sets: what is there, what is missing, how to get it"
    nested = verbs.add_parser("data", help=what, description=f"{what.capitalize()}.").add_subparsers(
        metavar="check", required=True
    )
    parser = add_verb(nested, "check", _check_data, "is a data set there and whole; how to get it")
    add = parser.add_argument
    add("name", metavar="NAME", help="cifar10, cifar100, imagenet, imagefolder, ...")
    add_data_root(parser, "the folder with a folder of that name")
    add("--decode", action="store_true", help="try every picture as well, which takes a while")
    add_json(parser)


def _check_data(given: argparse.Namespace) -> int:
    from hpcbench.training.data.check import tell

    return tell(given.name, given.data, decode=given.decode, as_json=given.json)


def add_doctor(verbs: Verbs) -> None:
    """Add the verb `doctor`."""
    parser = add_verb(verbs, "doctor", _doctor, "what is here, what is wrong, and how to mend it")
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
        from hpcbench.cluster.slurm.draft import write_profile

        return write_profile(given.write_profile, given.partition)
    from hpcbench.cluster.doctor import doctor

    return doctor(CATALOG, data_root=given.data, tried=given.tried, as_json=given.json)
