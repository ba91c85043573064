"""Claims beside figures, as Markdown between two markers of a document."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from examples.reproduce.verdict import Claim, Evaluation, Measured, summarise
from sae_dist.common.errors import UserError

BEGIN, END = "<!-- reproduction: begin -->", "<!-- reproduction: end -->"


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Where and how figures came about: facts by name, and commands with the seconds they took."""

    facts: dict[str, str]
    commands: list[tuple[str, float]] = field(default_factory=list)


def replace_part(document: str, part: str) -> str:
    """The document with `part` between the markers.

    Raises UserError if it has not each marker once, in order.
    """
    counts = document.count(BEGIN), document.count(END)
    if counts != (1, 1) or document.index(BEGIN) > document.index(END):
        raise UserError(
            f"found {counts[0]} times {BEGIN} and {counts[1]} times {END}; expected each once, in "
            "this order; restore the document"
        )
    before, rest = document.split(BEGIN)
    return f"{before}{BEGIN}\n\n{part.strip()}\n\n{END}{rest.split(END)[1]}"


def render(
    claims: Sequence[Claim], evaluations: Sequence[Evaluation], circumstances: Circumstances
) -> str:
    """The tables: of verdicts, of each claim's effects, of circumstances and commands."""
    found = [(claim, claim.over(evaluations)) for claim in claims]
    parts = [
        _table(["", ""], ([name, value] for name, value in circumstances.facts.items())),
        "### Claims",
        _table(
            ["claim", "published", "here", "found here"],
            (
                [c.title, f"{c.published} ({c.source})", _overall(c, e), summarise(e)]
                for c, e in found
            ),
        ),
        "### Effects",
        *(_details(claim, effects) for claim, effects in found if effects),
        "### Commands",
        _table(
            ["seconds", "command"],
            ([f"{seconds:.0f}", f"`{command}`"] for command, seconds in circumstances.commands),
        ),
    ]
    return "\n\n".join(parts)


def _details(claim: Claim, effects: list[Measured]) -> str:
    rows = (
        [f"`{e.label}`", _spread(e), f"{e.bound:g}", str(len(e.values)), e.verdict.value]
        for e in effects
    )
    table = _table(["", "mean ± s.d.", "must exceed", "seeds", ""], rows)
    heading = f"<summary>{claim.title}: {summarise(effects)}</summary>"
    return f"<details>{heading}\n\n{claim.effect}, {claim.unit}\n\n{table}\n\n</details>"


def _overall(claim: Claim, effects: list[Measured]) -> str:
    """From the least to the largest effect."""
    if not effects:
        return ""
    ordered = sorted(effects, key=lambda effect: effect.mean)
    ends = dict.fromkeys(_spread(effect) for effect in (ordered[0], ordered[-1]))
    return f"{claim.effect}: {' … '.join(ends)} {claim.unit}"


def _spread(effect: Measured) -> str:
    if effect.deviation is None:
        return f"{effect.mean:.3g}"
    return f"{effect.mean:.3g} ± {effect.deviation:.2g}"


def _table(header: list[str], rows: Iterable[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
