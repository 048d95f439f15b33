"""The page as its readers use it, in a real browser."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page, expect

from tests.html.conftest import EVIL, Browsed, open_page

NAMES = "table.ranking tbody tr:not([hidden]) th.name"


def names(page: Page) -> list[str]:
    """Return the experiments of the rows that are shown, in order."""
    return [name.removeprefix("★ ") for name in page.locator(NAMES).all_inner_texts()]


def column(page: Page, key: str) -> int:
    """Return the place of a column, from 0."""
    keys = page.locator("table.ranking thead button").evaluate_all("all => all.map(each => each.title)")
    return int(keys.index(key))


def cells(page: Page, key: str) -> list[str]:
    """Return what stands in a column of the rows that are shown."""
    place = column(page, key)
    return page.locator("table.ranking tbody tr:not([hidden])").evaluate_all(
        "(rows, place) => rows.map(row => row.cells[place].textContent.trim())", place
    )


def hover(page: Page, target: Locator) -> None:
    """Move the mouse over something as a hand does: there, and a little to and fro."""
    box = target.bounding_box()
    assert box
    for wobble in (-6, 0, 1):
        page.mouse.move(box["x"] + box["width"] / 2 + wobble, box["y"] + box["height"] / 2, steps=3)
        page.wait_for_timeout(100)


def test_the_answer_comes_first(browsed: Browsed) -> None:
    """What is read first is which run to use, by how much, how sure that is, and what not to believe."""
    card = browsed.page.locator("#verdict article").first
    expect(card.locator(".answer")).to_have_text("ddp_gloo")
    text = card.inner_text()
    assert "95 % confidence interval" in text and "a factor of" in text and "supported" in text
    assert "What limits it:" in text and "single_gpu_cached" in card.locator(".doubt").inner_text()
    assert (card.bounding_box() or {})["y"] < 300


def test_the_table_sorts_by_any_column_and_keeps_the_unknown_last(browsed: Browsed) -> None:
    """A click on a title sorts, a second one the other way; empty cells stay at the end both ways."""
    page = browsed.page
    for key in ("throughput_samples_s", "best_acc_pct", "epoch_time_s"):
        head = page.locator(f"table.ranking thead button[title={key}]")
        for order, sign in (("ascending", 1), ("descending", -1)):
            head.click()
            expect(head.locator("xpath=..")).to_have_attribute("aria-sort", order)
            found = [text.split()[0].replace(",", "") if text else None for text in cells(page, key)]
            known = [float(text) for text in found if text is not None]
            assert len(known) == 5 and found[5:] == [None, None]
            assert known == sorted(known, key=lambda value: sign * value)
    page.locator("table.ranking thead button[title=experiment]").click()
    assert names(page)[0].startswith("_") and names(page)[-1] == "single_gpu_cached"
    assert page.locator("table.ranking thead [aria-sort]").count() == 1


def test_the_table_filters_by_text_and_by_numbers(browsed: Browsed) -> None:
    """Filters of columns and the search add up, the count is told, and one button clears them."""
    page = browsed.page
    page.locator("th:has(button[title=experiment]) input").fill("single")
    assert sorted(names(page)) == ["single_gpu", "single_gpu_cached"]
    page.locator("th:has(button[title=best_acc_pct]) input").fill(">90")
    assert names(page) == ["single_gpu"]
    expect(page.locator("#shown")).to_have_text("1 of 7 rows")
    page.locator("#clear").click()
    assert len(names(page)) == 7
    page.locator("th:has(button[title=repeats]) input").fill("0..1")
    assert sorted(names(page)) == ["broken", "oom"]
    page.locator("#clear").click()
    page.locator("th:has(button[title=limit]) input").fill("=memory")
    assert names(page) == ["oom"]
    page.locator("#clear").click()
    page.locator("#search").fill("DDP_GLOO")
    assert "ddp_gloo" in names(page)
    expect(page.locator("#columns")).not_to_be_checked()
    page.locator("#clear").click()
    page.locator("#columns").check()
    page.locator("th:has(button[title=cache]) input").fill("device")
    assert names(page) == ["oom"]


def test_untrusted_rows_are_marked_and_can_be_hidden(browsed: Browsed) -> None:
    """A row with an error of the audit stays, takes no rank, and goes with one switch."""
    page = browsed.page
    assert "single_gpu_cached" in names(page)
    row = page.locator("tr[data-trusted=no]", has_text="single_gpu_cached")
    assert "line-through" in row.locator("th a").evaluate("e => getComputedStyle(e).textDecorationLine")
    page.locator("#untrusted").uncheck()
    assert "single_gpu_cached" not in names(page)


def test_findings_lead_to_their_rows_and_back(browsed: Browsed) -> None:
    """A finding's link shows its row, even one that is filtered away; the row's codes lead to the finding."""
    page = browsed.page
    page.locator("#untrusted").uncheck()
    finding = page.locator("#finding-cache-changes-learning")
    finding.locator("li a").first.click()
    row = page.locator("tr.hit")
    expect(row).to_be_in_viewport()
    assert row.locator("th.name").inner_text() == "single_gpu_cached"
    assert page.evaluate("document.activeElement.textContent") == "single_gpu_cached"
    finding.evaluate("element => { element.open = false; }")
    row.locator("td.codes a", has_text="cache-changes-learning").click()
    expect(finding.locator("li").first).to_be_in_viewport()


def test_curves_are_drawn_switched_and_hovered(browsed: Browsed) -> None:
    """Each section draws its curves when it comes into sight; a switch takes one away; hovering names it."""
    page = browsed.page
    section = page.locator("section:has(.switches)", has_text="Group1")
    assert section.locator("h2").inner_text() == "Group1: one <u>or</u> two"
    section.scroll_into_view_if_needed()
    charts = section.locator(".plot")
    expect(charts).to_have_count(5)
    lines = charts.nth(1).locator(".scatterlayer .js-line")
    expect(lines).to_have_count(4)  # two lines, two bands
    section.get_by_label("single_gpu", exact=True).uncheck()
    expect(lines).to_have_count(2)
    assert "single_gpu" not in str(charts.nth(1).get_attribute("aria-label"))
    charts.nth(1).evaluate("chart => chart.scrollIntoView({ block: 'center' })")
    hover(page, charts.nth(1).locator(".points path").last)
    expect(charts.nth(1).locator(".hoverlayer")).to_contain_text("ddp_gloo")
    section.locator("button[data-all=off]").click()
    expect(lines).to_have_count(0)
    section.locator("button[data-all=on]").click()
    expect(lines).to_have_count(4)


def test_each_run_shows_its_specification_repeats_and_log(browsed: Browsed) -> None:
    """A row's name opens what is known of its runs, and leads back to the row."""
    page = browsed.page
    page.locator("table.ranking a", has_text="broken").click()
    run = page.locator("details:target")
    expect(run).to_have_attribute("open", "")
    text = run.inner_text()
    assert "strategy: ddp" in text and "RuntimeError: <b>boom</b>" in text and "red end of log" in text
    run.locator("a", has_text="To its row").click()
    expect(page.locator("tr.hit th.name")).to_have_text("broken")


def test_names_do_nothing_wherever_they_stand(browsed: Browsed) -> None:
    """A name that is HTML, script or a template is text in tables, links, switches and charts."""
    page = browsed.page
    assert page.title() == "Report: sweep"
    assert EVIL in names(page)
    assert page.locator("img").count() == 0
    section = page.locator("section:has(.switches)", has_text=EVIL)
    section.scroll_into_view_if_needed()
    chart = section.locator(".js-plotly-plot").first
    chart.wait_for()
    drawn = chart.evaluate("chart => chart.data.map(trace => trace.name + trace.hovertemplate).join()")
    assert "&lt;img" in drawn and "<img" not in drawn


def test_the_page_follows_the_system_and_its_own_switch(browser: Browser, report: Path) -> None:
    """Dark systems get a dark page; the button changes it, charts too; both have enough contrast."""
    for scheme in ("dark", "light"):
        opened = open_page(browser, report, color_scheme=scheme)
        page = opened.page
        page.locator("#curves").scroll_into_view_if_needed()
        page.locator(".plot .xtick text").first.wait_for()
        first = page.evaluate(COLOURS)
        page.locator("#theme").click()
        second = page.evaluate(COLOURS)
        darkness = [luminance(each["back"]) for each in (first, second)]
        assert (darkness[0] < darkness[1]) == (scheme == "dark")
        for each in (first, second):
            for ink in ("ink", "soft", "link", "tick"):
                assert contrast(each[ink], each["back"]) >= 4.5, (scheme, ink)
        page.close()
        assert opened.complaints == []


COLOURS = """() => {
  const colour = (selector, what) => getComputedStyle(document.querySelector(selector))[what];
  return { back: colour('body', 'backgroundColor'), ink: colour('body', 'color'),
    soft: colour('.soft', 'color'),
    link: colour('nav a', 'color'), tick: colour('.plot .xtick text', 'fill') };
}"""


def luminance(colour: str) -> float:
    """Return the relative luminance of `rgb(...)` (WCAG 2.1)."""
    channels = [int(number) / 255 for number in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours (WCAG 2.1)."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_a_phone_shows_the_page_without_scrolling_sideways(browser: Browser, report: Path) -> None:
    """At the width of a phone only the table and the bars scroll, and names of rows stay in sight."""
    opened = open_page(browser, report, viewport={"width": 360, "height": 740})
    page = opened.page
    page.locator("#curves").scroll_into_view_if_needed()
    page.locator(".plot .xtick text").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator(".ranked .scroll").first.evaluate("element => { element.scrollLeft = 400; }")
    name = page.locator("table.ranking tbody th.name").first.bounding_box()
    assert name and 0 <= name["x"] < 60
    page.close()
    assert opened.complaints == []


def test_the_page_prints_with_its_curves(browser: Browser, report: Path) -> None:
    """A print holds the answer, the table and all curves, also those that were never in sight."""
    opened = open_page(browser, report, color_scheme="dark")
    assert opened.page.locator(".js-plotly-plot").count() < opened.page.locator(".plot").count()
    printed = opened.page.pdf()
    assert printed.startswith(b"%PDF") and len(re.findall(rb"/Type\s*/Page\b", printed)) >= 3
    assert opened.page.locator(".js-plotly-plot").count() == opened.page.locator(".plot").count()
    opened.page.close()
    assert opened.complaints == []


def test_the_keyboard_reaches_everything(browsed: Browsed) -> None:
    """The first Tab offers to skip to the ranking; titles sort and switches switch without a mouse."""
    page = browsed.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    expect(page.locator(".skip")).to_be_in_viewport()
    page.locator("table.ranking thead button[title=epoch_time_s]").focus()
    page.keyboard.press("Enter")
    expect(page.locator("th:has(button[title=epoch_time_s])")).to_have_attribute("aria-sort", "ascending")
    page.locator(".switches input").first.focus()
    page.keyboard.press("Space")
    expect(page.locator(".switches input").first).not_to_be_checked()


def test_a_screen_reader_hears_names_and_states(browsed: Browsed) -> None:
    """Headings, controls and charts have names; nothing interactive is anonymous."""
    page = browsed.page
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('a, button, input, [role=img], [role=region], section, nav')]
          .filter(each => !(each.textContent.trim() || each.ariaLabel || each.getAttribute('aria-labelledby')
                            || each.labels?.length)).length"""
    )
    assert nameless == 0
    assert page.locator("html").get_attribute("lang") == "en"
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(each => Number(each.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    expect(page.get_by_role("status")).to_contain_text("7 of 7")
    duplicate = page.evaluate(
        "[...document.querySelectorAll('[id]')].map(e => e.id).filter((id, i, all) => all.indexOf(id) !== i)"
    )
    assert duplicate == []
    targets = page.evaluate(
        """() => [...document.querySelectorAll("a[href^='#']")]
          .filter(a => !document.getElementById(a.hash.slice(1))).length"""
    )
    assert targets == 0
