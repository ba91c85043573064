"""The report in a real browser: it shows what the files say, and it works."""

import csv
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sae_dist.report import load
from sae_dist.report.results import at
from tests.report.browser import CHROMIUM, Browser

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here: apt-get install chromium"
)

HEADLINE = (
    *("l0", "fvu", "delta_loss", "ce_increase_percent"),
    *("loss_recovered", "dead_share"),
)
TOPICS = (
    *("overview", "fidelity", "position", "latents", "scaling"),
    *("comparison", "pairs", "transfer", "training"),
)
READ_TABLE = """Array.from(document.querySelectorAll("#overview tbody tr"), row => ({
    name: row.cells[0].innerText.replace("■", "").trim(), ...Object.fromEntries(
        Array.from(row.querySelectorAll("[data-key]"), c => [c.dataset.key, c.innerText])) }))"""
READ_RUNG = """Object.fromEntries(Array.from(
    document.querySelectorAll("section:target [data-key]"), c => [c.dataset.key, c.innerText]))"""
SHOWN = """Array.from(document.querySelectorAll(".page")).filter(
    page => getComputedStyle(page).display !== "none").map(page => page.id)"""
CUT = """Array.from(document.querySelectorAll(".table")).filter(
    table => table.offsetParent && table.scrollWidth > table.clientWidth).length"""
UNDRAWN = """Array.from(document.querySelectorAll("#{topic} [data-plot]")).filter(
    block => !("drawn" in block.dataset) && (block.scrollIntoView(), true)).length"""
TOO_WIDE_PLOTS = """Array.from(document.querySelectorAll("section:target .drawing")).filter(
    place => place.firstElementChild?.scrollWidth > place.clientWidth + 1).length"""
TOO_WIDE = "document.documentElement.scrollWidth - innerWidth"


@pytest.fixture
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser
        assert browser.problems == []


def test_the_page_shows_what_the_evaluation_says(whole_run: Path, browser: Browser) -> None:
    rungs = {record["rung"]: record for record in load(whole_run).rungs}
    browser.open(_address(whole_run))
    shown = {row["name"]: row for row in browser.value(READ_TABLE)}
    assert set(shown) == set(rungs)
    for name, figures in rungs.items():
        for key in HEADLINE:
            _require_equal(shown[name][key], figures[key])
        browser.value(f"location.hash = {json.dumps(f'rung-{name}')}")
        _wait(lambda name=name: browser.value(SHOWN) == [f"rung-{name}"])
        own = browser.value(READ_RUNG)
        for key in (*HEADLINE, "uniformity/r_l0", "cosine_similarity", "zero_ablation_loss"):
            _require_equal(own[key], at(figures, key))


def test_nothing_is_wider_than_the_window(whole_run: Path, browser: Browser) -> None:
    for width, height, scheme in ((390, 844, "dark"), (1280, 900, "light")):
        browser.open(_address(whole_run), width, height, scheme)
        for topic in (*TOPICS, "rung-topk_skip_16384"):
            browser.value(f"location.hash = {json.dumps(topic)}")
            _wait(
                lambda topic=topic: browser.value("document.querySelector(':target')?.id") == topic
            )
            assert browser.value(TOO_WIDE) <= 0, topic
            assert browser.value(CUT) == 0, topic
            _wait(lambda topic=topic: browser.value(UNDRAWN.format(topic=topic)) == 0)
            assert browser.value(TOO_WIDE) <= 0 and browser.value(TOO_WIDE_PLOTS) == 0, topic


def test_colours_follow_the_system(whole_run: Path, browser: Browser) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    mark = 'getComputedStyle(document.querySelector("#fidelity .mark-symbol path")).fill'
    found = []
    for scheme in ("light", "dark"):
        browser.open(_address(whole_run, "fidelity"), scheme=scheme)
        _wait(lambda: browser.value(UNDRAWN.format(topic="fidelity")) == 0)
        found.append((browser.value(ground), browser.value(mark)))
    assert found[0][0] == "rgb(255, 255, 255)"
    assert all(light != dark for light, dark in zip(*found, strict=True))


def test_a_plot_tells_its_values_and_gives_its_data(whole_run: Path, browser: Browser) -> None:
    browser.open(_address(whole_run, "fidelity"))
    _wait(lambda: browser.value(UNDRAWN.format(topic="fidelity")) == 0)
    browser.value("""{ URL.createObjectURL = (blob) => (blob.text().then((text) => {
        window.csv = text; }), "#fidelity"); }""")
    browser.click("[data-plot='fvu-l0'] .csv")
    _wait(lambda: browser.value("window.csv"))
    head, *lines = csv.reader(browser.value("window.csv").splitlines())
    assert set(head) == {"panel", "coder", "l0", "fvu"}
    told = {line[1]: dict(zip(head, line, strict=True)) for line in lines}
    for record in load(whole_run).rungs:
        assert float(told[record["rung"]]["fvu"]) == pytest.approx(record["fvu"], rel=1e-5)
    browser.hover("[data-plot='fvu-l0'] .mark-symbol path")
    _wait(lambda: browser.value("document.querySelector('#vg-tooltip-element.visible')?.innerText"))
    tooltip = browser.value("document.querySelector('#vg-tooltip-element').innerText")
    assert "coder" in tooltip and "FVU" in tooltip and "L0" in tooltip
    browser.click("[data-plot='fvu-l0'] .mark-symbol path")
    _wait(lambda: browser.value("location.hash").startswith("#rung-"))


def test_a_heading_sorts_by_click_and_by_key(whole_run: Path, browser: Browser) -> None:
    browser.open(_address(whole_run))
    values = """Array.from(document.querySelectorAll("#overview [data-key='fvu']"),
        cell => Number(cell.dataset.value))"""
    before = browser.value(values)
    browser.click("#overview th:nth-child(7) button")
    assert browser.value("document.activeElement.innerText") == "FVU"
    assert browser.value(values) == sorted(before) != before
    browser.press("Enter")
    assert browser.value(values) == sorted(before, reverse=True)
    state = "document.querySelector('#overview th:nth-child(7)').ariaSort"
    assert browser.value(state) == "descending"


def test_a_link_opens_a_rung_and_the_contents_lead_back(whole_run: Path, browser: Browser) -> None:
    browser.open(_address(whole_run))
    assert browser.value(SHOWN) == ["overview"]
    browser.click("#overview a[href='#rung-topk_16384']")
    _wait(lambda: browser.value(SHOWN) == ["rung-topk_16384"])
    assert browser.value("document.querySelector('section:target h1').innerText").endswith(
        "topk_16384"
    )
    current = "document.querySelector('nav [aria-current]').getAttribute('href')"
    _wait(lambda: browser.value(current) == "#rung-topk_16384")
    assert browser.value("scrollY") == 0
    browser.click("nav a[href='#pairs']")
    _wait(lambda: browser.value(SHOWN) == ["pairs"])
    browser.click("nav a[href='#everything']")
    _wait(
        lambda: (
            len(browser.value(SHOWN)) == browser.value("document.querySelectorAll('.page').length")
        )
    )


def test_without_scripts_and_on_paper_all_is_there(whole_run: Path, browser: Browser) -> None:
    browser.without_scripts()
    browser.open(_address(whole_run, "rung-topk_16384"))
    assert browser.value(SHOWN) == ["rung-topk_16384"]
    browser.print_media()
    shown, all_pages = browser.value(SHOWN), 'document.querySelectorAll(".page").length'
    assert len(shown) == browser.value(all_pages) - 1  # its configuration is not printed
    assert "switched off" in browser.value("document.querySelector('noscript').textContent")


def _address(run: Path, part: str = "") -> str:
    return f"{(run / 'report' / 'index.html').as_uri()}#{part}"


def _require_equal(text: str, value: float) -> None:
    """What is printed is the value, rounded to the digits that are printed."""
    is_share = text.endswith("%")
    digits = text.rstrip("%").strip().replace("−", "-").replace(",", "")
    decimals = len(digits.partition(".")[2])
    assert f"{100 * value if is_share else value:.{decimals}f}" == digits
    assert is_share or len(digits.replace(".", "").lstrip("-0")) >= 3


def _wait(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)
