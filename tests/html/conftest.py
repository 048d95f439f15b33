"""A real browser, where there is one. Without, what needs one is skipped and says how to get it."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hpcbench.report.collection import collect_results
from tests.report.records import Story, Sweep, single, spec

sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")

# Nothing that would speak to the network, and no sandbox, which root cannot have.
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

EVIL = "_<img src=x onerror=alert(1)>&'\"{{7*7}}`|*x*"
EVIL_LOG = "</pre></script><script>document.title='owned'</script>\x1b[31mred\x1b[0m end of log"


@dataclass
class Browsed:
    """A page in a browser, and what it must not do."""

    page: sync_api.Page
    complaints: list[str] = field(default_factory=list)  # console errors, exceptions, dialogs
    requests: list[str] = field(default_factory=list)  # anything beyond the file itself


def make_sweep(path: Path) -> Sweep:
    """Return results with several classes, a tie, an untrusted row, failures, logs, and an evil name."""
    sweep = Sweep(path)
    sweep.repeats(single(epochs=4), Story(step_s=0.02, rng=random.Random(1)))
    sweep.repeats(spec(epochs=4), Story(step_s=0.011, rng=random.Random(2)))
    sweep.repeats(single("single_gpu_cached", epochs=4, cache="memory"), Story(final_acc=0.5))
    sweep.repeats(spec(EVIL, strategy="dp", epochs=4), Story(step_s=0.015, rng=random.Random(3)))
    sweep.repeats(spec("large", epochs=4, batch_size=64), Story(step_s=0.03, rng=random.Random(4)))
    sweep.run(spec("oom", epochs=4, cache="device")).fail(limit="memory")
    broken = sweep.run(spec("broken", epochs=4, precision="amp_bf16"))
    broken.fail(reason="RuntimeError: <b>boom</b>")
    broken.folder.logs.mkdir()
    broken.folder.log(1, 0).write_text(EVIL_LOG)
    sweep.folder.sweep.write_text(
        "groups:\n- {id: Group1, title: 'one <u>or</u> two', factor: strategy, "
        "runs: [single_gpu, ddp_gloo]}\n"
    )
    return sweep


@pytest.fixture(scope="session")
def browser() -> Iterator[sync_api.Browser]:
    """Return headless Chromium."""
    executable = (
        os.environ.get("HPCBENCH_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    )
    if executable is None:
        pytest.skip("no Chromium: apt-get install chromium, or name one in HPCBENCH_CHROMIUM")
    with (
        sync_api.sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=executable, args=FLAGS) as running,
    ):
        yield running


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of a report."""
    sweep = make_sweep(tmp_path_factory.mktemp("results") / "sweep")
    return collect_results([sweep.folder.path]).report / "report.html"


@pytest.fixture
def browsed(browser: sync_api.Browser, report: Path) -> Iterator[Browsed]:
    """Return the page, open; afterwards it must have been silent and have asked for nothing."""
    opened = open_page(browser, report)
    yield opened
    opened.page.close()
    assert (opened.complaints, opened.requests) == ([], [])


def open_page(browser: sync_api.Browser, path: Path, **options: object) -> Browsed:
    """Open a file and note what it says and asks for."""
    page = browser.new_page(**{"viewport": {"width": 1300, "height": 900}, **options})  # type: ignore[arg-type]
    opened = Browsed(page)
    url = path.as_uri()
    page.on("console", lambda m: opened.complaints.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    page.on("dialog", lambda dialog: (opened.complaints.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda r: None if r.url in (url, "about:blank") or r.url.startswith(("data:", "blob:"))
            else opened.requests.append(r.url))  # fmt: skip
    page.goto(url)
    return opened
