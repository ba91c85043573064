import pytest

from examples.reproduce.claims import CLAIMS
from examples.reproduce.records import Record
from examples.reproduce.tables import BEGIN, END, render, replace_part
from sae_dist.common.errors import UserError
from tests.reproduce.made_up import evaluation, rung


def test_only_what_stands_between_the_markers_is_replaced() -> None:
    document = f"before\n\n{BEGIN}\n\nold\n\n{END}\n\nafter\n"
    assert replace_part(document, "new\n") == f"before\n\n{BEGIN}\n\nnew\n\n{END}\n\nafter\n"


@pytest.mark.parametrize("document", ["", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{END}{END}"])
def test_a_document_without_its_markers_is_refused(document: str) -> None:
    with pytest.raises(UserError, match="expected each once"):
        replace_part(document, "new")


def found(*fvus: float) -> Record:
    """Of a seed an FVU of the wider coder."""
    evaluations = [evaluation(narrow=rung(256, 8.0, 0.2), wide=rung(512, 8.0, fvu)) for fvu in fvus]
    effects = {claim.title: claim.over(evaluations) for claim in CLAIMS}
    return Record({"machine": "made up"}, [("python launch/train.py", 61.7)], effects)


def test_language_models_stand_beside_one_another() -> None:
    text = render(CLAIMS, {"small LM": found(0.10, 0.12, 0.14), "large LM": found(0.22)})
    row = next(line for line in text.splitlines() if line.startswith(f"| {CLAIMS[0].title} |"))
    unit = "% of the narrower coder's"
    verdicts = "**holds**: 40 ± 10 | **as published in 0 of 1 (one seed, no verdict)**: -10 |"
    assert row.endswith(f"{unit} | {verdicts}")
    assert "| `narrow → 512` | 40 ± 10 | 0 | 3 | holds |" in text
    assert "| `narrow → 512` | -10 | 0 | 1 | one seed |" in text
    assert "| machine | made up | made up |" in text
    assert text.count("| 62 | `python launch/train.py` |") == 2
    skip = next(line for line in text.splitlines() if line.startswith("| Skip transcoders"))
    assert skip.endswith("| **not measured** | **not measured** |")


def test_one_that_was_never_run_has_empty_columns() -> None:
    text = render(CLAIMS, {"small LM": found(0.22, 0.24, 0.26), "large LM": Record()})
    assert "**does not hold (1 opposite)**: -20 ± 10 | **not measured** |" in text
    assert "| machine | made up |  |" in text
