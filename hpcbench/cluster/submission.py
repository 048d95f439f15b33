"""`hpcbench submit`: from sweep files to a job, and where it is waited for, to a ranked table."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock

from hpcbench.cluster import interrupts
from hpcbench.cluster.admission import cores_shared_by
from hpcbench.cluster.decide import Action, Decision, decide
from hpcbench.cluster.estimate import ask_above, estimate, refuse_above
from hpcbench.cluster.executor import Execution, OnCluster, OnThisMachine
from hpcbench.cluster.machine import this_machine
from hpcbench.cluster.profile import Profile, find_profile
from hpcbench.cluster.stored import StoredRun
from hpcbench.cluster.where import Where, choose
from hpcbench.config.catalog import Catalog
from hpcbench.config.data import ROOT_VARIABLE
from hpcbench.config.load import dump_sweep, load_sweep
from hpcbench.config.spec import Sweep
from hpcbench.errors import HpcbenchError, InputError
from hpcbench.records.layout import ResultsFolder
from hpcbench.records.writer import write_atomically

MAX_NAMED = 5
ASK_ABOVE_GPU_HOURS = 100.0


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asks for."""

    files: tuple[Path, ...]
    results: Path
    executor: str | None = None
    data: str | None = None
    only: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    smoke: bool = False
    dry_run: bool = False
    json: bool = False
    shared: bool = False
    detach: bool | None = None
    force: bool = False
    yes: bool = False
    max_gpu_hours: float | None = None
    profile: str | None = None
    pack: bool | int | None = None
    max_parallel: int | None = None
    collect: bool = False


def submit(request: Request, catalog: Catalog, rank: Callable[[ResultsFolder], None]) -> int:
    """Submit what is not done and not queued; returns the exit status. `rank` prints the table at the end."""
    machine = this_machine()
    where = choose(request.executor, machine)
    profile = find_profile(request.profile, request.files)
    gpus = len(machine.gpus) if where is Where.LOCAL else profile.gpus_per_node or 0
    sweep, whole = _load(request, catalog, profile, gpus=gpus)
    results = ResultsFolder((request.results / sweep.name).absolute())
    execution = _execution(where, request, profile, sweep)

    def decisions_now() -> list[Decision]:
        nodes = machine if where is Where.LOCAL else None
        return decide(sweep.runs, sweep.data, results, nodes, catalog)

    decisions = decisions_now()
    if request.dry_run:
        _print_decisions(decisions, as_json=request.json)
        return 0
    _refuse(decisions, force=request.force)
    _announce(decisions, request, execution, catalog)
    if request.force and not request.yes:
        _ask_before_replacing(decisions)
    with interrupts.held_back() as interrupted:
        job_ids = _hand_over(request, sweep, whole, results, decisions_now, execution)
    from hpcbench.cluster import wait  # rich and, at the end, pandas: nothing that --dry-run needs

    keys = [decision.key for decision in decisions if decision.action is not Action.DONE]
    detach = execution.detaches if request.detach is None else request.detach
    if detach and not interrupted:
        return wait.leave(results, job_ids)
    return wait.see_through(results, job_ids, keys, rank, interrupted=bool(interrupted))


def _execution(where: Where, request: Request, profile: Profile, sweep: Sweep) -> Execution:
    if where is Where.LOCAL:
        return OnThisMachine(shared=request.shared)
    return OnCluster(
        profile=profile,
        pack=sweep.pack if request.pack is None else request.pack,
        parallel=request.max_parallel,
        collect=request.collect,
    )


def _load(request: Request, catalog: Catalog, profile: Profile, *, gpus: int) -> tuple[Sweep, Sweep]:
    """Return the sweep that is asked for, and all of it where `--only` takes a part."""
    root = request.data or os.environ.get(ROOT_VARIABLE)
    if root is None and isinstance(profile.data, str):
        root = profile.data

    def load(only: Sequence[str]) -> Sweep:
        sweep = load_sweep(
            request.files,
            catalog,
            settings=request.settings,
            only=only,
            default_gpus_per_node=gpus,
            data_root=root,
            smoke=request.smoke,
        )
        return _at_site(sweep, profile, own_data=root is not None)

    sweep = load(request.only)
    if not request.only:
        return sweep, sweep
    try:
        return sweep, load(())
    except InputError:
        return sweep, sweep  # what is wrong with the other runs, such as absent data, is not asked for


def _at_site(sweep: Sweep, profile: Profile, *, own_data: bool) -> Sweep:
    """Complete a sweep by what its profile says of the site: where data are, and the image."""
    if isinstance(profile.data, dict) and not own_data:
        sweep = replace(sweep, data={**sweep.data, **profile.data})
    if profile.container.runtime == "none" or sweep.smoke_gpus is not None:
        return sweep
    inside = (
        replace(spec, container=profile.container) if spec.container.runtime == "none" else spec
        for spec in sweep.runs
    )
    return replace(sweep, runs=tuple(inside))


def _print_decisions(decisions: Sequence[Decision], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([decision.to_json() for decision in decisions], indent=1))
        return
    from hpcbench.cluster import show

    show.console().print(show.decisions_view(decisions))


def _refuse(decisions: Sequence[Decision], *, force: bool) -> None:
    impossible = [each for each in decisions if each.action is Action.IMPOSSIBLE]
    if impossible:
        raise InputError(
            f"{_named(impossible)}. Leave them out with --only, or see --dry-run; nothing was started"
        )
    conflicts = [each for each in decisions if each.action is Action.CONFLICT]
    busy = [
        each for each in conflicts if each.status and (each.status.state == "running" or each.status.queued)
    ]
    if busy and force:
        raise InputError(
            f"{_named(busy)}. It is still in a job: --force does not take it away; cancel it first"
        )
    if conflicts and not force:
        raise InputError(
            f"other runs of the same name have results there: {_named(conflicts)}. Use another --results, "
            "another name, or --force, which sets the old results aside; nothing was started"
        )


def _named(decisions: Sequence[Decision]) -> str:
    named = "; ".join(f"{each.key}: {each.reason}" for each in decisions[:MAX_NAMED])
    more = len(decisions) - MAX_NAMED
    return f"{named}; and {more} more" if more > 0 else named


def _announce(
    decisions: Sequence[Decision], request: Request, execution: Execution, catalog: Catalog
) -> None:
    to_do = [each.spec for each in decisions if each.action in (Action.RUN, Action.CONFLICT)]
    refuse_above(request.max_gpu_hours, to_do)
    if to_do:
        execution.check(to_do)
    done = sum(each.action is Action.DONE for each in decisions)
    busy = [each for each in decisions if each.action is Action.BUSY]
    left_out = [f"{done} done already"] * bool(done) + [f"{len(busy)} in a job already"] * bool(busy)
    if left_out:
        _say(f"{len(decisions)} runs: {', '.join(left_out)}")
    if to_do:
        _say(estimate(decisions, to_do, catalog))
        if request.max_gpu_hours is None and not request.yes:
            ask_above(ASK_ABOVE_GPU_HOURS, to_do)


def _ask_before_replacing(decisions: Sequence[Decision]) -> None:
    conflicts = [each for each in decisions if each.action is Action.CONFLICT]
    if not conflicts or not sys.stdin.isatty():
        return
    answer = input(f"Set aside the results of {len(conflicts)} runs and do them anew? [y/N] ")
    if answer.strip().lower() not in ("y", "yes"):
        raise HpcbenchError("nothing was started")


def _say(text: str) -> None:
    print(f"hpcbench: {text}", file=sys.stderr)


def _hand_over(
    request: Request,
    sweep: Sweep,
    whole: Sweep,
    results: ResultsFolder,
    decisions_now: Callable[[], list[Decision]],
    execution: Execution,
) -> list[str]:
    """Decide again, with no other submitter at work, and submit; returns the ids of the jobs."""
    results.path.mkdir(parents=True, exist_ok=True)
    with FileLock(results.submission_lock):
        decisions = decisions_now()
        _refuse(decisions, force=request.force)
        for conflict in (each for each in decisions if each.action is Action.CONFLICT):
            _set_aside(results, conflict)
        to_do = [each.spec for each in decisions if each.action in (Action.RUN, Action.CONFLICT)]
        text = dump_sweep(whole)
        if not results.sweep.exists() or results.sweep.read_text(encoding="utf-8") != text:
            write_atomically(results.sweep, text)
        if not to_do:
            return []
        shares = cores_shared_by(whole.runs)
        for spec in to_do:
            stored = StoredRun(
                spec=spec,
                declared=sweep.declared.get(spec.run_id),
                data=sweep.data.get(spec.dataset),
                cores_shared_by=shares[spec.device],
            )
            stored.write(results.run(spec.name, spec.repeat))
        return execution.start(results, to_do)


def _set_aside(results: ResultsFolder, conflict: Decision) -> None:
    """Keep the results that `--force` replaces, where no ranking finds them."""
    assert conflict.status is not None
    name, repeat = conflict.spec.name, conflict.spec.repeat
    kept = results.replaced(name, repeat, conflict.status.run_id)
    while kept.exists():  # the same two runs have replaced each other before
        kept = kept.with_name(f"{kept.name}.again")
    kept.parent.mkdir(parents=True, exist_ok=True)
    results.run(name, repeat).path.rename(kept)
    _say(f"{conflict.key}: its earlier results are now in {kept}")
