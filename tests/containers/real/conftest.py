"""Sets each engine up once. What can't be had on this machine is skipped, and said in capitals at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.containers.real.engines import Docker, Engine, Podman
from tests.containers.real.in_apptainer import Apptainer
from tests.containers.real.lab import Lab, UnavailableError, machine_facts, unmount, work_folder

KINDS: tuple[type[Engine], ...] = (Podman, Docker, Apptainer)
LAB = pytest.StashKey[Lab]()
ENGINES = pytest.StashKey[dict[str, Engine | str]]()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Find the work folder."""
    session.config.stash[LAB] = Lab(work_folder())
    session.config.stash[ENGINES] = {}
    session.config.stash[LAB].note(machine_facts())


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Leave nothing running and nothing mounted."""
    for engine in session.config.stash[ENGINES].values():
        if isinstance(engine, Engine):
            engine.close()
    unmount(session.config.stash[LAB].folder)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print what was measured, and what was left out."""
    terminalreporter.section("containers")
    for fact in config.stash[LAB].facts:
        terminalreporter.line(fact)
    for name, engine in config.stash[ENGINES].items():
        if isinstance(engine, str):
            terminalreporter.line(f"NOT TESTED: {name.upper()}: {engine}", red=True, bold=True)


def engine_called(config: pytest.Config, kind: type[Engine]) -> Engine:
    """Return an engine that has the image; skips where it can't be had here."""
    known = config.stash[ENGINES]
    if kind.name not in known:
        if kind is not Podman:
            engine_called(config, Podman)  # makes the base image for all
        engine = kind(config.stash[LAB])
        try:
            engine.prepare()
        except UnavailableError as error:
            known[kind.name] = str(error)
        else:
            known[kind.name] = engine
            engine.build()
    found = known[kind.name]
    if isinstance(found, str):
        pytest.skip(f"{kind.name} can't be had here: {found}")
    return found


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """Return each engine in turn, with its commands on the path; no container may outlive the test."""
    found = engine_called(request.config, request.param)
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    yield found
    assert found.left_over() == []


@pytest.fixture
def podman(request: pytest.FixtureRequest) -> Podman:
    """Return podman."""
    found = engine_called(request.config, Podman)
    assert isinstance(found, Podman)
    return found


@pytest.fixture
def apptainer(request: pytest.FixtureRequest) -> Apptainer:
    """Return Apptainer."""
    found = engine_called(request.config, Apptainer)
    assert isinstance(found, Apptainer)
    return found


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep hashes and the queue where they disturb nobody."""
    folder = work_folder()
    monkeypatch.setenv("HPCBENCH_CACHE", str(folder / "cache"))
    monkeypatch.setenv("HPCBENCH_QUEUE_DIR", str(folder / f"queue-{os.getpid()}"))
