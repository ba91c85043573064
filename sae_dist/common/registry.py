"""What goes by a name, and other packages may bring.

They do so by an entry point in their pyproject.toml:

[project.entry-points."sae_dist.kinds"]
mine = "my_package.mine:Mine"
"""

from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from sae_dist.common.errors import UserError, one_line
from sae_dist.common.names import nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """Classes by name: ours, and those that installed packages bring.

    Args:
        what: they are, in messages.
        group: of the entry points.
        ours: by name, each one's `module:Class`.
        base: whose subclasses they are.
        key: the attribute that holds a class' name.
    """

    def __init__(
        self, what: str, group: str, ours: Mapping[str, str], base: type[T], key: str = "name"
    ) -> None:
        self.what, self.group, self.ours, self.base, self.key = what, group, ours, base, key

    @cached_property
    def _homes(self) -> dict[str, EntryPoint]:
        homes: dict[str, EntryPoint] = {}
        ours = [EntryPoint(name, home, self.group) for name, home in self.ours.items()]
        for home in (*ours, *entry_points(group=self.group)):
            if homes.setdefault(home.name, home).value != home.value:
                raise UserError(
                    f"found {self.what} {home.name} twice, in {homes[home.name].value} and "
                    f"{home.value}; expected one; uninstall the other's package"
                )
        return homes

    def names(self) -> list[str]:
        """Of all; nothing is imported."""
        return list(self._homes)

    def load(self, name: str) -> type[T]:
        """The class of a name.

        Raises:
            UserError: nobody brings it, or what is brought is none.
        """
        if name not in self._homes:
            raise UserError(
                f"found no {self.what} called {name!r:.60}; expected one of "
                f"{', '.join(self.names())}{nearest(name, self.names())}; install the package that "
                "brings it"
            )
        home = self._homes[name]
        try:
            found = home.load()
        except Exception as error:  # whatever a package of others does when it is imported
            raise UserError(
                f"found {self.what} {name} unusable: {home.value} cannot be imported "
                f"({type(error).__name__}: {one_line(str(error))}); mend or uninstall its package"
            ) from error
        is_one = isinstance(found, type) and issubclass(found, self.base)
        if not (is_one and getattr(found, self.key) == name):
            raise UserError(
                f"found {self.what} {name} unusable: {home.value} is no {self.base.__name__} whose "
                f"{self.key} is {name!r}; mend or uninstall its package"
            )
        return found  # type: ignore[no-any-return]
