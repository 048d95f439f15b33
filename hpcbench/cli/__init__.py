"""Every verb of `hpcbench` and its arguments. What a verb needs is imported when it is called."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hpcbench import __version__
from hpcbench.errors import HpcbenchError

if TYPE_CHECKING:
    from hpcbench.analysis.audit.findings import Finding
    from hpcbench.records.layout import ResultsFolder
    from hpcbench.report.cells import Row
    from hpcbench.report.collect import Collected

    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]
    Add = Callable[..., argparse.Action]

INTERRUPTED = 130
BROKEN_PIPE = 141  # 128 + SIGPIPE, as a shell shows it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    if os.getpid() == 1:
        # The first process of a container: the kernel keeps from it what it has not asked for.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    parsed = _parser().parse_args(arguments)
    try:
        status: int = parsed.verb(parsed)
        sys.stdout.flush()
    except HpcbenchError as error:
        print(f"hpcbench: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Python would complain once more while it flushes standard output at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        print(f"hpcbench: {error}", file=sys.stderr)
        return HpcbenchError.exit_code
    return status


def verb(name: str) -> int:
    """Run one verb with the arguments of this process: the door of `python -m hpcbench.<verb>`."""
    return main([name, *sys.argv[1:]])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hpcbench",
        description="Which distributed training strategy should I use on these nodes, by how much, and can I "
        "trust that?",
        epilog="Exit status: 0 fine; 1 it worked and something is bad; 2 wrong input; 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"hpcbench {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    _add_submit(verbs)
    _add_run(verbs)
    _add_status(verbs)
    _add_collect(verbs)
    _add_audit(verbs)
    _add_compare(verbs)
    _add_data(verbs)
    _add_cancel(verbs)
    _add_retry(verbs)
    _add_clean(verbs)
    _add_probe(verbs)
    _add_predict(verbs)
    _add_doctor(verbs)
    return parser


def _verb(verbs: Verbs, name: str, function: Callable[[argparse.Namespace], int], what: str) -> Add:
    """Add a verb; returns what adds arguments to it."""
    parser = verbs.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
    parser.set_defaults(verb=function)
    return parser.add_argument


def _add_results(add: Add) -> None:
    add("results", metavar="RESULTS", help="the results of a sweep: results/<sweep>")


def _add_settings(add: Add) -> None:
    add(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="KEY=VALUE",
        help="any field of a run, over everything else; VALUE is YAML; repeatable",
    )


def _add_share(add: Add) -> None:
    add("--share", action="store_true", help="let other shared jobs run beside this one, and mark its runs")


def _add_waiting(add: Add) -> None:
    add(
        "--wait",
        dest="detach",
        action="store_false",
        default=None,
        help="wait, and show the ranking at the end (the default on this machine)",
    )
    add("--detach", action="store_true", default=None, help="submit and leave (the default with Slurm)")


def _add_submit(verbs: Verbs) -> None:
    add = _verb(verbs, "submit", _submit, "do the runs of a sweep that are not done, and rank them")
    add("files", nargs="+", metavar="SWEEP.yaml", type=Path, help="sweep files; several are one sweep")
    add("--executor", choices=("auto", "slurm", "local"), help="where jobs go (auto)")
    add("--profile", metavar="NAME|FILE", help="what the cluster wants of jobs: partition, account, ...")
    add("--results", type=Path, default=Path("results"), metavar="DIR", help="where results go (results)")
    add("--data", metavar="DIR", help="where the data sets are; else $HPCBENCH_DATA, else as the sweep says")
    add("--only", action="append", default=[], metavar="GLOB", help="only runs with such names; repeatable")
    _add_settings(add)
    add("--smoke", action="store_true", help="every run scaled down to seconds, on whatever machine this is")
    add("--dry-run", action="store_true", help="show what would be done, and why not; start nothing")
    add("--json", action="store_true", help="with --dry-run: as JSON")
    _add_share(add)
    _add_waiting(add)
    add("--force", action="store_true", help="set aside results of other runs with the same names")
    add("--yes", action="store_true", help="ask nothing")
    _add_packing(add)
    add("--max-gpu-hours", type=float, metavar="N", help="refuse if the time limits allow more than this")


def _add_packing(add: Add) -> None:
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
    return submit(request, CATALOG, _rank)


def _add_run(verbs: Verbs) -> None:
    add = _verb(verbs, "run", _run, "one run, here and now; also under torchrun and srun")
    add("file", nargs="?", type=Path, metavar="SPEC.yaml", help="a run's fields, or the spec.json of a run")
    add("--out", type=Path, required=True, metavar="DIR", help="becomes the run's folder")
    for name in ("strategy", "model", "dataset", "ranks"):
        add(f"--{name}", help=f"the same as --set {name}=...")
    add("--data", metavar="DIR", help="where the data sets are; else $HPCBENCH_DATA")
    _add_settings(add)


def _run(given: argparse.Namespace) -> int:
    from hpcbench.catalog import CATALOG
    from hpcbench.cluster.foreground import run_here

    return run_here(given.file, _named_settings(given), given.out, CATALOG, data_root=given.data)


def _named_settings(given: argparse.Namespace) -> tuple[str, ...]:
    """Return what --set says, after the options that are short for it."""
    named = ((name, getattr(given, name)) for name in ("strategy", "model", "dataset", "ranks"))
    return (*(f"{name}={value}" for name, value in named if value is not None), *given.settings)


def _add_probe(verbs: Verbs) -> None:
    add = _verb(verbs, "probe", _probe, "what this node can do at most: model, loader, link, each alone")
    add("sweep", nargs="?", type=Path, metavar="SWEEP.yaml", help="for all recipes of a sweep")
    for name in ("strategy", "model", "dataset", "ranks"):
        add(f"--{name}", help=f"the same as --set {name}=...")
    _add_settings(add)
    add(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="with a sweep: where it has its results",
    )
    add("--out", type=Path, metavar="FILE", help="add the ceilings to this file instead")
    add("--data", metavar="DIR", help="where the data sets are; else $HPCBENCH_DATA")
    add("--json", action="store_true", help="as JSON")


def _probe(given: argparse.Namespace) -> int:
    from hpcbench.catalog import CATALOG
    from hpcbench.cluster.probe import Wanted, probe

    wanted = Wanted(
        sweep=given.sweep, settings=_named_settings(given), results=given.results, out=given.out,
        data=given.data, json=given.json,
    )  # fmt: skip
    return probe(wanted, CATALOG)


def _add_predict(verbs: Verbs) -> None:
    add = _verb(verbs, "predict", _predict, "what the runs of a sweep should reach, from measured ceilings")
    add("sweep", type=Path, metavar="SWEEP.yaml", help="its runs, and up to twice their ranks")
    add(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="where the sweep has its results: ceilings, and what was measured (results)",
    )
    add("--ceilings", type=Path, metavar="FILE", help="ceilings of another node, as probe --out writes them")
    _add_settings(add)
    add("--json", action="store_true", help="as JSON")


def _predict(given: argparse.Namespace) -> int:
    from hpcbench.catalog import CATALOG
    from hpcbench.cluster.machine import this_machine
    from hpcbench.cluster.show import console
    from hpcbench.config.load import load_sweep
    from hpcbench.report.predict import predict_sweep

    gpus = len(this_machine().gpus)
    sweep = load_sweep([given.sweep], CATALOG, settings=given.settings, default_gpus_per_node=gpus)
    return predict_sweep(sweep, given.results, given.ceilings, as_json=given.json, console=console())


def _add_status(verbs: Verbs) -> None:
    add = _verb(verbs, "status", _status, "the truth about every run")
    _add_results(add)
    add("--watch", action="store_true", help="keep showing it until nothing is running or waiting")
    add("--json", action="store_true", help="as JSON")


def _status(given: argparse.Namespace) -> int:
    from hpcbench.cluster.manage import status

    if given.watch and given.json:
        raise HpcbenchError("--watch is for people, --json for programs: say one of them")
    return status(given.results, watch=given.watch, as_json=given.json)


def _add_collect(verbs: Verbs) -> None:
    add = _verb(verbs, "collect", _collect, "tables and plots from the records; safe while jobs run")
    add(
        "results",
        nargs="+",
        type=Path,
        metavar="RESULTS",
        help="results/<sweep>; the last one gets the report",
    )
    add(
        "--rank-by",
        default="throughput_samples_s",
        metavar="COLUMN",
        help="what decides (throughput_samples_s)",
    )
    add("--lang", choices=("en", "zh"), default="en", help="language of the report (en)")
    add(
        "--target-acc",
        type=_not_negative,
        metavar="PCT",
        help="time to this accuracy (99 %% of a class's best)",
    )
    add(
        "--cost-per-gpu-hour",
        type=_not_negative,
        metavar="N",
        help="what a device costs an hour: cost per epoch",
    )
    add("--no-pictures", action="store_true", help="tables and page only: seconds rather than minutes")


def _collect(given: argparse.Namespace) -> int:
    from hpcbench.report.collect import collect

    collected = collect(
        given.results, rank_by=given.rank_by, lang=given.lang, target_pct=given.target_acc,
        cost_per_device_hour=given.cost_per_gpu_hour, pictures=not given.no_pictures,
    )  # fmt: skip
    _show(collected)
    return 1 if collected.failed else 0


def _add_compare(verbs: Verbs) -> None:
    add = _verb(verbs, "compare", _compare, "what has changed between two results of the same runs")
    add("old", type=Path, metavar="OLD", help="the results to compare with")
    add("new", type=Path, metavar="NEW", help="the results that are compared; exit status 1 if any got worse")
    add(
        "--tolerance", type=_not_negative, default=2.0, metavar="PCT",
        help="a change up to this is none: per cent, for accuracies points (2)",
    )  # fmt: skip
    form = add.__self__.add_mutually_exclusive_group()  # type: ignore[attr-defined]
    form.add_argument("--json", action="store_true", help="as JSON")
    form.add_argument("--markdown", action="store_true", help="as Markdown")


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError("a number from 0 on")
    return value


def _compare(given: argparse.Namespace) -> int:
    from hpcbench.analysis.compare import compare
    from hpcbench.cluster.show import console
    from hpcbench.report.compare import comparison_json, comparison_markdown, print_comparison

    compared = compare(given.old, given.new, tolerance_pct=given.tolerance)
    if given.json:
        print(comparison_json(compared))
    elif given.markdown:
        print(comparison_markdown(compared), end="")
    else:
        print_comparison(compared, console())
    return 1 if compared.regressions else 0


def _add_audit(verbs: Verbs) -> None:
    add = _verb(verbs, "audit", _audit, "what is wrong with results, or with somebody else's table")
    add("target", type=Path, metavar="RESULTS|TABLE", help="results/<sweep>, or a table as CSV or Markdown")
    numbers = {
        "samples-per-epoch": "training samples of an epoch",
        "epochs": "epochs behind total times",
        "eval-samples": "samples of each evaluation",
        "ranks": "ranks that may have been counted",
    }
    for name, what in numbers.items():
        add(f"--{name}", type=_count, metavar="N", help=f"of a table: {what}")
    add(
        "--column",
        action="append",
        default=[],
        metavar="FIELD=NAME",
        help="of a table: which column a quantity is; repeatable",
    )
    add("--json", action="store_true", help="as JSON")


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= 10**15:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 1 or more")
    return int(text)


def _audit(given: argparse.Namespace) -> int:
    from hpcbench.analysis.audit.foreign.table import Stated
    from hpcbench.cluster.show import console
    from hpcbench.report.audit import audit, column_choices

    stated = Stated(
        samples_per_epoch=given.samples_per_epoch,
        epochs=given.epochs,
        eval_samples=given.eval_samples,
        ranks=given.ranks,
        columns=column_choices(given.column),
    )
    return audit(given.target, stated, as_json=given.json, console=console())


def _rank(results: ResultsFolder) -> None:
    """Print the ranked table: that of the report, where nothing has happened since it was written."""
    from hpcbench.cluster.wait import report_is_current

    if report_is_current(results):
        from hpcbench.report.findings import read_findings
        from hpcbench.report.terminal import read_ranking

        found = read_findings(results.report / "findings.csv")
        _show_report(results.report, read_ranking(results.report / "ranking.csv"), found)
    else:
        from hpcbench.report.collect import collect

        _show(collect([results.path]))


def _show(collected: Collected) -> None:
    from hpcbench.analysis.rows import plain_rows

    for problem in collected.problems:
        print(f"hpcbench: {problem}", file=sys.stderr)
    _show_report(collected.report, plain_rows(collected.ranking), collected.findings)


def _show_report(report: Path, rows: Sequence[Row], findings: Sequence[Finding]) -> None:
    from hpcbench.analysis.audit.findings import Severity
    from hpcbench.cluster.show import console
    from hpcbench.report.findings import print_findings
    from hpcbench.report.terminal import print_ranking

    print_ranking(rows, console())
    print_findings(findings, console(), only=Severity.ERROR)
    print(f"hpcbench: the report, for a browser: {report / 'report.html'}", file=sys.stderr)


def _add_data(verbs: Verbs) -> None:
    what = "data sets: what is there, what is missing, how to get it"
    nested = verbs.add_parser("data", help=what, description=f"{what.capitalize()}.").add_subparsers(
        metavar="check", required=True
    )
    add = _verb(nested, "check", _check_data, "is a data set there and whole; how to get it")
    add("name", metavar="NAME", help="cifar10, cifar100, imagenet, imagefolder, ...")
    add("--data", metavar="DIR", help="the folder with a folder of that name; else $HPCBENCH_DATA")
    add("--decode", action="store_true", help="try every picture as well, which takes a while")
    add("--json", action="store_true", help="as JSON")


def _check_data(given: argparse.Namespace) -> int:
    from hpcbench.training.data.check import tell

    return tell(given.name, given.data, decode=given.decode, as_json=given.json)


def _add_cancel(verbs: Verbs) -> None:
    _add_results(_verb(verbs, "cancel", _cancel, "end the jobs of these results"))


def _cancel(given: argparse.Namespace) -> int:
    from hpcbench.cluster.manage import cancel

    return cancel(given.results)


def _add_retry(verbs: Verbs) -> None:
    add = _verb(verbs, "retry", _retry, "do again what is not done")
    _add_results(add)
    add("--failed", action="store_true", help="only runs that failed")
    add("--lost", action="store_true", help="only runs whose job died without a word")
    add("--exclude-failed-nodes", action="store_true", help="Slurm: not on nodes on which these runs died")
    add("--more", type=float, metavar="X", help="X times the time or memory, where that was too little")
    _add_share(add)
    _add_waiting(add)


def _retry(given: argparse.Namespace) -> int:
    from hpcbench.catalog import CATALOG
    from hpcbench.cluster.manage import retry

    return retry(
        given.results,
        CATALOG,
        _rank,
        failed=given.failed,
        lost=given.lost,
        shared=given.share,
        detach=given.detach,
        exclude_failed_nodes=given.exclude_failed_nodes,
        more=given.more,
    )


def _add_clean(verbs: Verbs) -> None:
    _add_results(_verb(verbs, "clean", _clean, "remove what nobody needs any more; never records"))


def _clean(given: argparse.Namespace) -> int:
    from hpcbench.cluster.manage import clean

    return clean(given.results)


def _add_doctor(verbs: Verbs) -> None:
    add = _verb(verbs, "doctor", _doctor, "what is here, what is wrong, and how to mend it")
    add(
        "--write-profile", type=Path, metavar="FILE", help="draft a profile from what Slurm says of its nodes"
    )
    add("--partition", metavar="NAME", help="with --write-profile: for which partition (the default one)")
    add("--data", metavar="DIR", help="where the data sets are; else $HPCBENCH_DATA")
    add(
        "--try",
        action="append",
        default=[],
        dest="tried",
        metavar="RUNTIME=IMAGE",
        help="do a short run in it",
    )
    add("--json", action="store_true", help="as JSON")


def _doctor(given: argparse.Namespace) -> int:
    from hpcbench.catalog import CATALOG

    if given.write_profile:
        from hpcbench.cluster.slurm.draft import write_profile

        return write_profile(given.write_profile, given.partition)
    from hpcbench.cluster.doctor import doctor

    return doctor(CATALOG, data_root=given.data, tried=given.tried, as_json=given.json)
