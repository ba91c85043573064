"""The report in a real browser: it shows what `evaluation.json` says, and it works."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

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
TOO_WIDE = "document.documentElement.scrollWidth - innerWidth"


@pytest.fixture
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser
        assert browser.problems == []


def test_the_page_shows_what_the_evaluation_says(whole_run: Path, browser: Browser) -> None:
    rungs = json.loads((whole_run / "evaluation.json").read_text())["rungs"]
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
            _require_equal(own[key], _at(figures, key))


def test_nothing_is_wider_than_the_window(whole_run: Path, browser: Browser) -> None:
    for width, height, scheme in ((390, 844, "dark"), (1280, 900, "light"), (1440, 900, "light")):
        browser.open(_address(whole_run), width, height, scheme)
        for topic in (*TOPICS, "rung-topk_skip_16384", "everything"):
            browser.value(f"location.hash = {json.dumps(topic)}")
            _wait(
                lambda topic=topic: browser.value("document.querySelector(':target')?.id") == topic
            )
            assert browser.value(TOO_WIDE) <= 0, topic
            assert width == 390 or browser.value(CUT) == 0, topic  # there tables are scrolled


def test_colours_follow_the_system(whole_run: Path, browser: Browser) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    series = 'getComputedStyle(document.body).getPropertyValue("--series-0")'
    found = []
    for scheme in ("light", "dark"):
        browser.open(_address(whole_run), scheme=scheme)
        found.append((browser.value(ground), browser.value(series)))
    assert found[0][0] == "rgb(255, 255, 255)"
    assert all(light != dark for light, dark in zip(*found, strict=True))


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


def _address(run: Path, part: str = "") -> str:
    return f"{(run / 'report' / 'index.html').as_uri()}#{part}"


def _at(figures: Any, path: str) -> Any:
    for key in path.split("/"):
        figures = figures[key]
    return figures


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
