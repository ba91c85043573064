import pytest

from examples.reproduce.claims import CLAIMS
from examples.reproduce.tables import BEGIN, END, Circumstances, render, replace_part
from sae_dist.common.errors import UserError
from tests.reproduce.made_up import evaluation, rung


def test_only_what_stands_between_the_markers_is_replaced() -> None:
    document = f"before\n\n{BEGIN}\n\nold\n\n{END}\n\nafter\n"
    assert replace_part(document, "new\n") == f"before\n\n{BEGIN}\n\nnew\n\n{END}\n\nafter\n"


@pytest.mark.parametrize("document", ["", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{END}{END}"])
def test_a_document_without_its_markers_is_refused(document: str) -> None:
    with pytest.raises(UserError, match="expected each once"):
        replace_part(document, "new")


def test_claims_stand_beside_figures_with_their_spread() -> None:
    def seed(fvu: float) -> dict[str, object]:
        return evaluation(narrow=rung(256, 8.0, 0.2), wide=rung(512, 8.0, fvu))

    circumstances = Circumstances({"machine": "made up"}, [("python launch/train.py", 61.7)])
    text = render(CLAIMS, [seed(0.10), seed(0.12), seed(0.14)], circumstances)
    row = next(line for line in text.splitlines() if line.startswith(f"| {CLAIMS[0].title} |"))
    assert "40 ± 10 % of the narrower coder's | holds |" in row
    assert "| `narrow → 512` | 40 ± 10 | 0 | 3 | holds |" in text
    assert "| Skip transcoders raise the loss least |" in text and "| not measured |" in text
    assert "| machine | made up |" in text
    assert "| 62 | `python launch/train.py` |" in text

    text = render(CLAIMS, [seed(0.22), seed(0.24), seed(0.26)], circumstances)
    assert "% of the narrower coder's | does not hold (1 opposite) |" in text
