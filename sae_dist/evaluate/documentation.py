"""The tables of docs/evaluation.md, made of what the measures declare."""

from collections.abc import Iterator
from inspect import cleandoc

from sae_dist.evaluate.measure import Declared, Needs
from sae_dist.evaluate.registry import measures

_GIVEN = {
    Needs.WEIGHTS: "the coder alone",
    Needs.CODES: "held-out sequences through the coder",
    Needs.LM: "the language model, with the reconstruction spliced in",
    Needs.GRADIENTS: "the language model, differentiated",
    Needs.PAIR: "held-out sequences through two coders",
    Needs.FIGURES: "the figures of all rungs",
    Needs.FINETUNE: "a finetune of the language model, and prompts",
}
_UNREAD = (Needs.WEIGHTS, Needs.FIGURES, Needs.FINETUNE)  # they see no held-out sequences


def tables() -> str:
    """Markdown: of each measure what it is, what it is given, and its figures."""
    return "\n".join(line for name, kind in measures().items() for line in _section(name, kind))


def _section(name: str, kind: type[Declared]) -> Iterator[str]:
    first = cleandoc(kind.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    settings = [*([] if kind.needs in _UNREAD else [kind.sequences]), *kind.settings]
    asked = f"; `{'`, `'.join(settings)}`" if settings else ""
    yield f"### `{name}`\n\n{first} Given: {_GIVEN[kind.needs]}{asked}.\n"
    yield "| key | what it is | source |\n|---|---|---|"
    for figure in kind.figures:
        if not figure.definition:  # a column that the report makes itself
            continue
        unit = f", {figure.unit}" if figure.unit else ""
        what = f"{figure.definition}{unit}".replace("|", "\\|")
        yield f"| `{figure.key.replace('/', '.')}` | {what} | {figure.source} |"
    yield ""
