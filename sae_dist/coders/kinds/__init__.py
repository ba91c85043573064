"""The kinds of coders by name: ours, and those that installed packages bring.

A package brings one by an entry point in its pyproject.toml:

    [project.entry-points."sae_dist.kinds"]
    mine = "my_package.mine:Mine"
"""

from functools import cache
from importlib.metadata import EntryPoint, entry_points

from sae_dist.coders.config import CoderConfig
from sae_dist.common.errors import UserError, one_line
from sae_dist.common.names import nearest

GROUP = "sae_dist.kinds"
OURS = {
    "jumprelu": "JumpReLU",
    "topk": "TopK",
    "batchtopk": "BatchTopK",
    "abstopk": "AbsTopK",
}


@cache
def _homes() -> dict[str, EntryPoint]:
    homes: dict[str, EntryPoint] = {}
    ours = [EntryPoint(n, f"{__name__}.{n}:{kind}", GROUP) for n, kind in OURS.items()]
    for home in (*ours, *entry_points(group=GROUP)):
        if homes.setdefault(home.name, home).value != home.value:
            raise UserError(
                f"found kind {home.name} twice, in {homes[home.name].value} and {home.value}; "
                "expected one; uninstall the other's package"
            )
    return homes


def kind_names() -> list[str]:
    """The names of all kinds; nothing is imported."""
    return list(_homes())


def kind_named(name: str) -> type[CoderConfig]:
    """The class of a kind.

    Raises:
        UserError: nobody brings such a kind, or what is brought is none.
    """
    if name not in kind_names():
        raise UserError(
            f"found no kind of coder called {name!r:.60}; expected one of {', '.join(kind_names())}"
            f"{nearest(name, kind_names())}; install the package that brings it"
        )
    home = _homes()[name]
    try:
        kind = home.load()
    except Exception as error:  # whatever a package of others does when it is imported
        raise UserError(
            f"found kind {name} unusable: {home.value} cannot be imported "
            f"({type(error).__name__}: {one_line(str(error))}); mend or uninstall its package"
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, CoderConfig) and kind.kind == name):
        raise UserError(
            f"found kind {name} unusable: {home.value} is no CoderConfig whose kind is {name!r}; "
            "mend or uninstall its package"
        )
    return kind
