"""Families of classes, of which one is chosen by name: ours, and those that other packages bring.

A package brings one by an entry point in its pyproject.toml:

    [project.entry-points."sae_dist.kinds"]
    mine = "my_package.mine:Mine"
"""

from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from sae_dist.common.errors import UserError, one_line
from sae_dist.common.names import nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """A family: classes of settings, each of which bears its name in a field.

    Args:
        what: one of them, in messages.
        base: what all of them extend.
        key: the field of the name.
        group: of the entry points.
        ours: places of our own, `module:Class`, by name.
    """

    def __init__(
        self, what: str, base: type[T], key: str, group: str, ours: dict[str, str]
    ) -> None:
        self.what, self.base, self.key, self._group, self._ours = what, base, key, group, ours

    @cached_property
    def _homes(self) -> dict[str, EntryPoint]:
        homes: dict[str, EntryPoint] = {}
        ours = [EntryPoint(name, place, self._group) for name, place in self._ours.items()]
        for home in (*ours, *entry_points(group=self._group)):
            if homes.setdefault(home.name, home).value != home.value:
                raise UserError(
                    f"found {self.what} {home.name} twice, in {homes[home.name].value} and "
                    f"{home.value}; expected one; uninstall the other's package"
                )
        return homes

    def names(self) -> list[str]:
        """Of all; nothing is imported."""
        return list(self._homes)

    def named(self, name: str) -> type[T]:
        """The class of that name.

        Raises:
            UserError: nobody brings such a one, or what is brought is none.
        """
        if name not in self._homes:
            raise UserError(
                f"found no {self.what} called {name!r:.60}; expected one of "
                f"{', '.join(self._homes)}{nearest(name, self._homes)}; install the package that "
                "brings it"
            )
        home = self._homes[name]
        unusable = f"found {self.what} {name} unusable: {home.value}"
        try:
            found: Any = home.load()
        except Exception as error:  # whatever a package of others does when it is imported
            raise UserError(
                f"{unusable} cannot be imported ({type(error).__name__}: {one_line(str(error))}); "
                "mend or uninstall its package"
            ) from error
        is_one = isinstance(found, type) and issubclass(found, self.base)
        if not (is_one and getattr(found, self.key, "") == name):
            raise UserError(
                f"{unusable} is no {self.base.__name__} whose {self.key} is {name!r}; mend or "
                "uninstall its package"
            )
        return found
