"""The tables of docs/evaluation.md, made of what the measures declare."""

from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

from sae_dist.evaluate.registry import Declared, Needs, measures

PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"
BEGIN, END = "test_documentation.py -->\n", "<!-- /measures -->"
GIVEN = {
    Needs.WEIGHTS: "the coder alone",
    Needs.CODES: "held-out sequences through the coder",
    Needs.LM: "the language model, with the reconstruction spliced in",
    Needs.GRADIENTS: "the language model, differentiated",
    Needs.TEXTS: "labelled texts through the language model and the coder",
    Needs.PAIR: "held-out sequences through two coders",
    Needs.FIGURES: "the figures of all rungs",
    Needs.FINETUNE: "a finetune of the language model, and prompts",
    Needs.JUDGE: "a language model that explains and judges",
}


def section(name: str, kind: type[Declared]) -> Iterator[str]:
    """Markdown: what a measure is, what it is given, and its figures."""
    first = cleandoc(kind.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    is_fed = kind.needs.reads or kind.needs is Needs.TEXTS
    settings = [*([kind.sequences] if is_fed else []), *kind.settings]
    asked = f"; `{'`, `'.join(settings)}`" if settings else ""
    yield f"### `{name}`\n\n{first} Given: {GIVEN[kind.needs]}{asked}.\n"
    yield "| key | what it is | source |\n|---|---|---|"
    for figure in kind.figures:
        if not figure.definition:  # a column that the report makes itself
            continue
        unit = f", {figure.unit}" if figure.unit else ""
        what = f"{figure.definition}{unit}".replace("|", "\\|")
        yield f"| `{figure.key.replace('/', '.')}` | {what} | {figure.source} |"
    yield ""


def made() -> str:
    """The page with its tables made anew."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    tables = "\n".join(line for name, kind in measures().items() for line in section(name, kind))
    return before + BEGIN + "\n" + tables + "\n" + END + rest.split(END)[1]


def test_the_page_has_what_the_measures_declare() -> None:
    assert PAGE.read_text(encoding="utf-8") == made(), (
        "run: python -m tests.evaluate.test_documentation"
    )


if __name__ == "__main__":
    PAGE.write_text(made(), encoding="utf-8")
