"""Command-line arguments that several commands share."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # generic for type checkers only

NAMED_SETTINGS = ("strategy", "model", "dataset", "ranks")  # fields of a run that have an option of their own


def add_command(
    commands: Commands, name: str, function: Callable[[argparse.Namespace], int], what: str
) -> argparse.ArgumentParser:
    """Add a command; returns the parser of its arguments."""
    parser = commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
    parser.set_defaults(run_command=function)
    add = parser.add_mutually_exclusive_group().add_argument
    for flag, name, level, shown in (
        ("-v", "--verbose", logging.DEBUG, "every message on standard error, with the details"),
        ("-q", "--quiet", logging.WARNING, "only warnings and errors on standard error"),
    ):
        add(flag, name, dest="log_level", action="store_const", const=level, default=logging.INFO, help=shown)
    return parser


def add_results(parser: argparse.ArgumentParser) -> None:
    """Add the results folder of a sweep."""
    parser.add_argument("results", metavar="RESULTS", help="the results of a sweep: results/<sweep>")


def add_results_of(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the folder in which sweeps have their results."""
    parser.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help=f"{what} (results)"
    )


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add what changes any field of all runs."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="KEY=VALUE",
        help="any field of a run, over everything else; VALUE is YAML; repeatable",
    )


def add_named_settings(parser: argparse.ArgumentParser) -> None:
    """Add the options that describe a run, for commands without a sweep."""
    for name in NAMED_SETTINGS:
        parser.add_argument(f"--{name}", help=f"the same as --set {name}=...")
    add_settings(parser)


def named_settings(given: argparse.Namespace) -> tuple[str, ...]:
    """Return the values of --set, after the options that are short for it."""
    named = ((name, getattr(given, name)) for name in NAMED_SETTINGS)
    return (*(f"{name}={value}" for name, value in named if value is not None), *given.settings)


def add_data_root(parser: argparse.ArgumentParser, what: str = "where the data sets are") -> None:
    """Add where data sets are."""
    parser.add_argument("--data", metavar="DIR", help=f"{what}; else $HPCBENCH_DATA")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add output for programs."""
    parser.add_argument("--json", action="store_true", help="as JSON")


def non_negative(text: str) -> float:
    """Return a number from 0 on."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError("a number from 0 on")
    return value


def positive_count(text: str) -> int:
    """Return a whole number from 1 on."""
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= 10**15:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 1 or more")
    return int(text)


def add_share(parser: argparse.ArgumentParser) -> None:
    """Add `--share`."""
    parser.add_argument(
        "--share",
        dest="shared",
        action="store_true",
        help="let other shared jobs run beside this one, and mark its runs",
    )


def add_waiting(parser: argparse.ArgumentParser) -> None:
    """Add `--wait` and `--detach`."""
    add = parser.add_argument
    add(
        "--wait",
        dest="detach",
        action="store_false",
        default=None,
        help="wait, and show the ranking at the end (the default on this machine)",
    )
    add("--detach", action="store_true", default=None, help="submit and leave (the default with Slurm)")
