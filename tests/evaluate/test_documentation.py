from pathlib import Path

from sae_dist.evaluate.documentation import tables

PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"
BEGIN, END = "test_documentation.py -->\n", "<!-- /measures -->"


def made() -> str:
    """The page with its tables made anew."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    return before + BEGIN + "\n" + tables() + "\n" + END + rest.split(END)[1]


def test_the_page_has_what_the_measures_declare() -> None:
    assert PAGE.read_text(encoding="utf-8") == made(), (
        "run: python -m tests.evaluate.test_documentation"
    )


if __name__ == "__main__":
    PAGE.write_text(made(), encoding="utf-8")
