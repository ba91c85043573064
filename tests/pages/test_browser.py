"""The pages of latents in a real browser: they show what the files say, and they work."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_dist.latents import Latents
from sae_dist.latents.folder import COLUMNS, range_file, write_about, write_tensors
from sae_dist.pages import write
from tests.latents.made_up import write_made_up
from tests.pages.conftest import RUNGS, TEXTS
from tests.report.browser import CHROMIUM, Browser

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here: apt-get install chromium"
)

TOO_WIDE = "document.documentElement.scrollWidth - innerWidth"
ROWS = "Array.from(document.querySelectorAll('.row .number'), n => Number(n.innerText))"
IS_DONE = "document.querySelector('.found')?.innerText.includes('latents')"
FOUND = "document.querySelector('.found').innerText"
CURRENT = "document.querySelector('.tree [aria-current]')?.innerText"
TITLE = "document.querySelector('main.one h1')?.innerText.replace('■', '').trim()"
ALL = 4000  # pixels, so that as many rows are in sight as there are


@pytest.fixture(scope="module")
def shared() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture
def browser(shared: Browser) -> Iterator[Browser]:
    shared.problems.clear()
    yield shared
    assert shared.problems == []


def address(run: Path, fragment: str = "") -> str:
    return f"{(run / 'latents' / 'index.html').as_uri()}{fragment}"


def search(browser: Browser, run: Path, by: str, asked: str, height: int = ALL) -> list[int]:
    """What is found as a user does it: choose how, and type."""
    browser.open(address(run, "#topk-128"), 1280, height)
    browser.wait_for("document.querySelector('.row')")
    browser.click(f"label:has([value={by}])")
    browser.value(
        f"{{ const box = document.getElementById('asked'); box.value = {asked!r};"
        "box.dispatchEvent(new Event('input')); }"
    )
    browser.wait_for(IS_DONE)
    rows = browser.value(ROWS)
    assert browser.value(FOUND).startswith(f"{len(rows)} latents")
    return rows


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_all_is_shown_and_nothing_is_wider_than_the_window(
    made_up: Path, browser: Browser, width: int, scheme: str
) -> None:
    browser.open(address(made_up), width, 844, scheme)
    browser.wait_for("document.querySelectorAll('.row').length > 5")
    assert browser.value(TOO_WIDE) <= 0
    assert browser.value("document.querySelectorAll('.rungs a').length") == len(RUNGS)
    figures = """Array.from(document.querySelectorAll(".row")[3].querySelectorAll(".figure"),
        figure => [figure.dataset.key, figure.innerText])"""
    latents = Latents(made_up, "topk-64")
    shown = dict(browser.value(figures))
    assert shown["frequency"] == f"{100 * latents.frequency_F[3]:.2g} %"
    assert shown["cosine"] == "0.80" and shown["detection"] == "0.03" and shown["fuzzing"] == "–"
    browser.click(".row .number")
    assert browser.wait_for(TITLE) == "Latent 0"
    browser.wait_for("document.querySelector('.near .label:not(:empty)')")
    assert browser.value(TOO_WIDE) <= 0
    for part in ("#activations svg", "#ladder .tree li", "#logits .up", "#neighbours .near"):
        assert browser.value(f"document.querySelector('{part}').getClientRects().length"), part
    browser.hover(".side")
    too_wide = """Array.from(document.querySelectorAll("main *")).filter(
        e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.className)"""
    assert browser.value(too_wide) == []


def test_a_number_is_found_and_enter_opens_it(made_up: Path, browser: Browser) -> None:
    assert search(browser, made_up, "number", "12") == [12, *range(120, 128)]
    assert browser.value("location.hash") == "#topk-128?by=number&q=12"
    browser.value("document.getElementById('asked').focus()")
    browser.press("Enter")
    assert browser.wait_for(TITLE) == "Latent 12"
    browser.value("history.back()")
    browser.wait_for("document.querySelector('.list')")
    assert browser.value(ROWS) == [12, *range(120, 128)]
    assert browser.value("document.getElementById('asked').value") == "12"
    assert search(browser, made_up, "number", "999") == []
    assert browser.value("document.querySelector('.nothing').innerText").startswith("No latent")


def test_a_token_is_found_by_peaks_and_by_logits(made_up: Path, browser: Browser) -> None:
    latents, token = Latents(made_up, "topk-128"), 117
    peaks = {
        f: sum(
            one.group == 0 and one.token_ids[one.position - one.start] == token
            for one in latents.examples(f)
        )
        for f in range(128)
    }
    peaking = {f: number for f, number in peaks.items() if number}
    raising = set(np.flatnonzero((latents.column("top_tokens") == token).any(1)).tolist())
    assert peaking and raising - peaking.keys()
    rows = search(browser, made_up, "token", "W117")  # in any case, without the blank before it
    assert set(rows) == peaking.keys() | raising
    assert [peaks[f] for f in rows] == sorted((peaks[f] for f in rows), reverse=True)
    times = {1: "once"}.get(peaks[rows[0]], f"{peaks[rows[0]]} times")
    note = browser.value("document.querySelector('.row .note').innerText")
    assert note.startswith(f"peaks on “ w117” {times}")
    assert search(browser, made_up, "token", "↵")  # as it is shown
    search(browser, made_up, "token", "w11")  # a token itself, not what begins with it
    assert "“ w11” " not in browser.value(FOUND) and "“ w110”" in browser.value(FOUND)


def test_a_text_is_found_in_the_strongest_examples(made_up: Path, browser: Browser) -> None:
    latents = Latents(made_up, "topk-128")
    one = next(e for e in latents.examples(40) if e.group == 0)
    at = max(one.position, 1)
    pair = latents.token_ids_NS[one.sequence, at - 1 : at + 1]
    text = b"".join(TEXTS[token] for token in pair).decode()
    ids = latents.token_ids_NS
    hits = {
        (int(s), int(p)) for s, p in np.argwhere((ids[:, :-1] == pair[0]) & (ids[:, 1:] == pair[1]))
    }
    assert hits == {(one.sequence, at - 1)}
    expected, within = set(), set()
    for latent in range(128):
        for e in latents.examples(latent):
            is_in = e.group == 0 and e.sequence == one.sequence
            if is_in and e.start < at + 1 and at - 1 < e.start + latents.rung.window:
                expected.add(latent)
                within |= {latent} if at - 1 <= e.position <= at else set()
    rows = search(browser, made_up, "text", text.upper())
    assert set(rows) == expected and 40 in within
    assert set(rows[: len(within)]) == within
    assert browser.value(FOUND).endswith("the text stands there once")


def test_an_explanation_is_found_and_scores_sort(made_up: Path, browser: Browser) -> None:
    browser.open(address(made_up, "#topk-64?by=explanation&q=that%20NUMBERS"), 1280, ALL)
    browser.wait_for(IS_DONE)
    assert browser.value(ROWS) == list(range(0, 64, 3))
    browser.click("[data-sort=detection]")
    assert browser.value(ROWS) == list(range(63, -1, -3))
    assert browser.value("location.hash").endswith("&sort=-detection")
    browser.click("[data-sort=fuzzing]")
    assert browser.value(ROWS) == [*range(0, 64, 6), *range(3, 64, 6)]  # no score comes last
    browser.value("document.querySelector('.row').click()")
    browser.wait_for(TITLE)
    shown = browser.value("document.querySelector('.explanation').innerText")
    assert shown == "numbers that 2 divides <b>"
    author = browser.value("document.querySelector('.author').innerText")
    assert author == "a person, judged by an oracle"


@pytest.mark.parametrize("key", ["frequency", "max", "cosine"])
def test_a_heading_sorts_by_click_and_by_key(made_up: Path, browser: Browser, key: str) -> None:
    browser.open(address(made_up, "#topk-128"), 1280, 12000)
    browser.wait_for("document.querySelector('.row')")
    latents = Latents(made_up, "topk-128")
    values = {
        "frequency": latents.column("fired"),
        "max": latents.column("max"),
        "cosine": latents.column("cosine")[:, 0],
    }[key]
    browser.click(f"[data-sort={key}]")
    assert browser.value(ROWS) == np.argsort(-values, kind="stable").tolist()
    browser.press("Enter")
    assert browser.value(ROWS) == np.argsort(values, kind="stable").tolist()
    pressed = "document.querySelector('[aria-pressed=true]').dataset.sort"
    assert browser.value(pressed) == key


def test_only_rows_in_sight_are_there_and_scrolling_shows_the_others(
    made_up: Path, browser: Browser
) -> None:
    browser.open(address(made_up, "#topk-256"), 1280, 700)
    browser.wait_for("document.querySelector('.row')")
    assert browser.value(ROWS)[0] == 0 and len(browser.value(ROWS)) < 20
    browser.value("document.querySelector('.rows').scrollTop = 1e9")
    browser.wait_for(f"{ROWS}.at(-1) === 255")
    bottom = """document.querySelector('.rows').getBoundingClientRect().bottom -
        document.querySelector('.row:last-child').getBoundingClientRect().bottom"""
    assert abs(browser.value(bottom)) < 2


def test_examples_show_their_values(made_up: Path, browser: Browser) -> None:
    latents = Latents(made_up, "topk-256")
    browser.open(address(made_up, "#topk-256/9"), 1280, 900)
    browser.wait_for(TITLE)
    read = """Array.from(document.querySelectorAll('.example'), example => ({
        group: Number(example.closest('[data-group]').dataset.group),
        peak: Number(example.querySelector('.peak').dataset.value),
        values: Array.from(example.children, token => Number(token.dataset.value ?? 0)) }))"""
    shown, expected = browser.value(read), latents.examples(9)
    assert [one["group"] for one in shown] == [one.group for one in expected]
    for one, example in zip(shown, expected, strict=True):
        np.testing.assert_allclose(one["values"], example.values, rtol=1e-6)
        assert one["peak"] == pytest.approx(example.values[example.position - example.start])
    assert expected[0].values.max() == latents.row("max", 9)
    browser.hover(".example .peak")
    browser.wait_for("!document.getElementById('told').hidden")
    told = browser.value("document.getElementById('told').innerText")
    token = int(expected[0].token_ids[expected[0].position - expected[0].start])
    assert told.startswith(f"{latents.row('max', 9):#.4g}") and f"token {token}" in told
    weak, strong = (
        browser.value(
            f"getComputedStyle(document.querySelector('[data-group=\"{group}\"] .peak')).background"
        )
        for group in (4, 0)
    )
    assert weak != strong
    length, window = latents.about.sequence_length, latents.rung.window
    tokens = "document.querySelector('.example').children.length"
    assert browser.value(tokens) == window
    browser.click(".where")  # unfolds the whole sequence
    assert browser.value(tokens) == length
    assert browser.value("document.querySelectorAll('.example .peak').length") == len(expected)


def test_activations_below_zero_have_a_colour_of_their_own(
    tmp_path: Path, browser: Browser
) -> None:
    write_made_up(tmp_path, {"a": 16})
    latents, colours = Latents(tmp_path, "a"), []
    for sign in (1, -1):
        for own in latents.ranges():
            columns = {name: latents.column(name, own) for name in COLUMNS}
            columns["values"] = sign * np.abs(columns["values"])
            write_tensors(latents.folder / range_file(own.start, own.stop), columns)
        write_about(latents.folder / "about.json", latents.rung)
        write(tmp_path, None)
        browser.open(address(tmp_path, "#a/5"), 1280, 900)
        browser.wait_for(TITLE)
        peak = "document.querySelector('.example .peak')"
        colours.append(browser.value(f"getComputedStyle({peak}).backgroundColor"))
        told = browser.value(f"{peak}.dataset.told")
        assert told.startswith(f"{'−' if sign < 0 else ''}{latents.row('max', 5):#.4g}")
    assert len(set(colours)) == 2


def test_hostile_tokens_do_nothing_and_parts_of_a_character_become_one(
    tmp_path: Path, browser: Browser
) -> None:
    write_made_up(tmp_path, {"a": 16}, lm={"name": "never"})
    tokens = np.load(tmp_path / "latents" / "tokens.npy")
    tokens[:, 1::8], tokens[:, 2::8] = 11, 12  # é in two parts
    tokens[:, 3::8], tokens[:, 4::8], tokens[:, 5::8], tokens[:, 6::8] = 13, 14, 10, 15
    np.save(tmp_path / "latents" / "tokens.npy", tokens)
    write(tmp_path, TEXTS)
    for fragment in ("", "#a/1", "#a?by=token&q=evil", "#<img src=x onerror=alert(1)>/%zz"):
        browser.open(address(tmp_path, fragment), 1280, 900)
        browser.wait_for("document.querySelector('.row, .example, .missing')")
        assert browser.value("document.querySelectorAll('img, main script').length") == 0
        assert not browser.value("/\\u202e/.test(document.body.textContent)")
        if fragment == "#a/1":
            text = browser.value("document.querySelector('.example').textContent")
            assert "⋯é</script><img src=x onerror=alert(1)>⟨202e⟩evil↵␣␣" in text


def test_the_ladder_leads_from_rung_to_rung(made_up: Path, browser: Browser) -> None:
    browser.open(address(made_up, "#topk-128/70"), 1280, 1400)
    assert "70" in browser.wait_for(CURRENT)
    lines = "Array.from(document.querySelectorAll('.tree a'), a => a.getAttribute('href'))"
    tree = ["64/6", "128/6", "256/6", "256/134", "128/70", "256/70", "256/198"]
    assert browser.value(lines) == [f"#topk-{own}" for own in tree]
    levels = "document.querySelector('.levels').innerText"
    assert browser.value(levels).split() == ["64", "×", "1", "128", "×", "2", "256", "×", "4"]
    browser.click(".tree li li summary")  # that of 6 folds
    assert browser.value("document.querySelector('.tree li li details').open") is False
    browser.click(".tree a[href='#topk-256/198']")
    browser.wait_for(f"{TITLE} === 'Latent 198'")
    assert browser.value(lines)[0] == "#topk-64/6"
    browser.value(
        "{ const range = document.querySelector('.threshold input'); range.value = 0.95;"
        "range.dispatchEvent(new Event('input')); }"
    )
    assert "stands alone" in browser.value("document.querySelector('.tree').innerText")
    browser.value("history.back()")
    browser.wait_for(f"{TITLE} === 'Latent 70'")


def test_a_large_tree_is_unfolded_on_the_way_alone(tmp_path: Path, browser: Browser) -> None:
    write_made_up(tmp_path, {"a-8": 8, "a-16": 16, "a-512": 512})
    write(tmp_path, TEXTS)
    browser.open(address(tmp_path, "#a-16/9"), 1280, 1400)
    browser.wait_for(CURRENT)
    opened = "Array.from(document.querySelectorAll('.tree details'), d => d.open)"
    assert browser.value(opened) == [True, False, True]  # 1 of 8, 1 and 9 of 16
    assert "× 64" in browser.value("document.querySelector('.levels').innerText")
    more = "document.querySelector('.tree .more').innerText"
    assert browser.value(more) == "24 more"
    rows = "Array.from(document.querySelectorAll('.row [data-key=splits]'), s => s.innerText)"
    browser.open(address(tmp_path, "#a-16"), 1280, ALL)
    browser.wait_for("document.querySelector('.row')")
    assert browser.value(rows) == ["32"] * 16


def test_keys_lead_on_in_the_order_of_the_table(made_up: Path, browser: Browser) -> None:
    browser.open(address(made_up, "#topk-64?sort=-frequency"), 1280, 900)
    browser.wait_for("document.querySelector('.row')")
    order = np.argsort(-Latents(made_up, "topk-64").column("fired"), kind="stable").tolist()
    browser.click(".row .number")
    browser.wait_for(f"{TITLE} === 'Latent {order[0]}'")
    browser.press("ArrowRight")
    browser.wait_for(f"{TITLE} === 'Latent {order[1]}'")
    browser.press("ArrowLeft")
    browser.wait_for(f"{TITLE} === 'Latent {order[0]}'")
    browser.press("ArrowRight")
    browser.wait_for(f"{TITLE} === 'Latent {order[1]}'")
    browser.press("Escape")
    browser.wait_for("document.querySelector('main.listing')")
    assert browser.value("location.hash") == "#topk-64?sort=-frequency"
    focused = "document.activeElement.querySelector?.('.number')?.innerText"
    assert browser.wait_for(focused) == str(order[1])  # where one was


def test_keys_lead_from_row_to_row(made_up: Path, browser: Browser) -> None:
    browser.open(address(made_up, "#topk-256"), 1280, 700)
    browser.wait_for("document.querySelector('.row')")
    browser.value("document.getElementById('asked').focus()")
    focused = "Number(document.activeElement.querySelector?.('.number')?.innerText ?? -1)"
    is_seen = """(() => { const { top, bottom } = document.activeElement.getBoundingClientRect();
        return top >= document.querySelector('.titles').getBoundingClientRect().bottom - 1
            && bottom <= document.querySelector('.rows').getBoundingClientRect().bottom + 1; })()"""
    for key, times, row in (
        ("ArrowDown", 1, 0),
        ("ArrowDown", 30, 30),
        ("ArrowUp", 25, 5),
        ("End", 1, 255),
        ("Home", 1, 0),
    ):
        for _ in range(times):
            browser.press(key)
        assert browser.value(focused) == row and browser.value(is_seen), key
    browser.press("PageDown")
    assert 5 < browser.value(focused) < 30 and browser.value(is_seen)
    browser.press("Enter")
    assert browser.wait_for(TITLE)


def test_without_a_tokenizer_tokens_are_numbers(tmp_path: Path, browser: Browser) -> None:
    write_made_up(tmp_path, {"a": 16})
    write(tmp_path, None)
    latents = Latents(tmp_path, "a")
    browser.open(address(tmp_path, "#a/5"), 390, 844)
    browser.wait_for(TITLE)
    shown = browser.value("document.querySelector('.example').innerText.trim().split(' ')")
    assert [int(token) for token in shown] == latents.examples(5)[0].token_ids.tolist()
    token = int(latents.examples(5)[0].token_ids[0])
    browser.open(address(tmp_path, f"#a?by=text&q={token}"), 390, 844)
    browser.wait_for(IS_DONE)
    assert browser.value(ROWS)


def test_a_latent_that_never_fires_says_so(tmp_path: Path, browser: Browser) -> None:
    write_made_up(tmp_path, {"a": 700}, num_neighbours=0)
    write(tmp_path, None)
    silent = int(np.flatnonzero(Latents(tmp_path, "a").column("fired") == 0)[0])
    browser.open(address(tmp_path, f"#a/{silent}"), 1280, 900)
    browser.wait_for(TITLE)
    assert browser.value("document.querySelector('.explanation').innerText") == "never fires"
    assert "never fires" in browser.value("document.querySelector('.examples').innerText")
    assert browser.value("document.querySelector('#neighbours')") is None


def test_a_file_that_is_missing_is_named(tmp_path: Path, shared: Browser) -> None:
    write_made_up(tmp_path, {"a": 16})
    page: Any = write(tmp_path, None)
    (page.parent / "pages/rungs/a/latents/0.js").unlink()
    shared.open(address(tmp_path, "#a/5"))
    said = shared.wait_for("document.querySelector('.missing')?.innerText")
    assert "pages/rungs/a/latents/0.js" in said
    shared.problems.clear()  # the browser tells of it, too
