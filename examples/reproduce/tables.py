"""Claims beside figures of language models, as Markdown between two markers of a document."""

from collections.abc import Iterable, Mapping, Sequence

from examples.reproduce.records import Record
from examples.reproduce.verdict import Claim, Measured, summarise
from sae_dist.common.errors import UserError

BEGIN, END = "<!-- reproduction: begin -->", "<!-- reproduction: end -->"


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


def render(claims: Sequence[Claim], records: Mapping[str, Record]) -> str:
    """The tables: of circumstances, verdicts, each claim's effects, and commands.

    Args:
        records: by what their language model is called.
    """
    facts = dict.fromkeys(name for record in records.values() for name in record.facts)
    rows = ([name, *(r.facts.get(name, "") for r in records.values())] for name in facts)
    parts = [
        _table(["", *records], rows),
        "### Claims",
        _table(
            ["claim", "published", "measured here", *records],
            ([*_about(claim), *(_found(claim, r) for r in records.values())] for claim in claims),
        ),
        "### Effects",
        *(_details(claim, records) for claim in claims),
        "### Commands",
        *(_commands(name, record) for name, record in records.items()),
    ]
    return "\n\n".join(filter(None, parts))


def _about(claim: Claim) -> list[str]:
    return [
        claim.title,
        f"{claim.published} ({claim.source})",
        f"{claim.effect}, {claim.unit}",
    ]


def _found(claim: Claim, record: Record) -> str:
    """The verdict, and from the least to the largest effect."""
    effects = record.effects.get(claim.title, [])
    ordered = sorted(effects, key=lambda effect: effect.mean)
    ends = dict.fromkeys(_spread(effect) for effect in (*ordered[:1], *ordered[-1:]))
    return ": ".join(filter(None, [f"**{summarise(effects)}**", " … ".join(ends)]))


def _details(claim: Claim, records: Mapping[str, Record]) -> str:
    """Of each language model a table of a claim's effects."""
    tables = []
    for name, record in records.items():
        if effects := record.effects.get(claim.title):
            rows = (
                [f"`{e.label}`", _spread(e), f"{e.bound:g}", str(e.seeds), e.verdict.value]
                for e in effects
            )
            table = _table(["", "mean ± s.d.", "must exceed", "seeds", ""], rows)
            tables.append(f"{name}: {summarise(effects)}\n\n{table}")
    if not tables:
        return ""
    heading = f"<summary>{claim.title}</summary>\n\n{claim.effect}, {claim.unit}"
    return "\n\n".join([f"<details>{heading}", *tables, "</details>"])


def _commands(name: str, record: Record) -> str:
    if not record.commands:
        return ""
    rows = ([f"{seconds:.0f}", f"`{command}`"] for command, seconds in record.commands)
    return f"{name}:\n\n{_table(['seconds', 'command'], rows)}"


def _spread(effect: Measured) -> str:
    if effect.deviation is None:
        return f"{effect.mean:.3g}"
    return f"{effect.mean:.3g} ± {effect.deviation:.2g}"


def _table(header: list[str], rows: Iterable[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
