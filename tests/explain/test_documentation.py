"""The table of docs/explanations.md, made of what the scorers declare."""

from pathlib import Path

import pytest

from sae_dist.explain import ExamplesConfig, ExplanationConfig
from sae_dist.explain.judges import JUDGES
from sae_dist.explain.scorers import SCORERS

PAGE = Path(__file__).parents[2] / "docs" / "explanations.md"
BEGIN, END = "test_documentation -->\n", "<!-- /scorers -->"


def made() -> str:
    """The page with its table made anew."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    scorers = map(SCORERS.named, SCORERS.names())
    rows = [f"| `{one.name}` | {one.definition} | {one.source} |" for one in scorers]
    table = "\n".join(["", "| scorer | score of a latent | source |", "|---|---|---|", *rows, ""])
    return before + BEGIN + table + "\n" + END + rest.split(END)[1]


def test_the_page_has_what_the_scorers_declare() -> None:
    assert PAGE.read_text(encoding="utf-8") == made(), (
        "run: python -m tests.explain.test_documentation"
    )


@pytest.mark.parametrize("judge", JUDGES.names())
def test_the_page_names_every_judge(judge: str) -> None:
    assert f"| `{judge}` | " in PAGE.read_text(encoding="utf-8")


def test_the_page_tells_the_defaults() -> None:
    text, given = PAGE.read_text(encoding="utf-8"), ExamplesConfig()
    numbers = (given.window, given.quantiles, given.explain, given.score, given.inactive)
    assert numbers == (32, 10, 4, 5, 50) and given.min_windows == 200
    for told in ("windows of 32 tokens", "ten equal quantiles", "four windows", "five *others*"):
        assert told in text
    judged = given.quantiles * given.score + given.inactive
    requests = 1 + 2 * judged // ExplanationConfig().shown
    assert f"a latent takes {requests} requests" in text and f"{2 * requests - 1}." in text


if __name__ == "__main__":
    PAGE.write_text(made(), encoding="utf-8")
