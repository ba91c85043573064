"""Packages whose names are imported at their first use, so that configurations come without torch.

A package's `__init__.py` lists its names once, below `if TYPE_CHECKING:`, as for any reader, and
then calls `lazily(__name__)`, which also makes `__all__` of them:

    if TYPE_CHECKING:
        from sae_dist.stream.order import TokenOrder as TokenOrder

    lazily(__name__)
"""

import ast
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any


def lazily(package: str) -> None:
    """Import each name that stands below `if TYPE_CHECKING:` in `package` when it is asked for."""
    module = sys.modules[package]
    blocks = ast.parse(Path(module.__file__ or "").read_text()).body
    homes = {
        alias.asname or alias.name: (node.module or "", alias.name)
        for block in blocks
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    vars(module).update(_homes=homes, __all__=list(homes))
    module.__class__ = _LazyPackage


class _LazyPackage(ModuleType):
    """See `lazily`. A function may bear the name of its module, which it hides, or of a package
    beside it, which then is called in its place: `sae_dist.train(config)`.
    """

    _homes: dict[str, tuple[str, str]]

    def __getattr__(self, name: str) -> Any:
        if name not in self._homes:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        home, there = self._homes[name]
        value = getattr(import_module(home), there)
        return vars(self).setdefault(name, value)  # a package of that name was imported with it

    def __call__(self, *given: Any, **named: Any) -> Any:
        """The function of this package's name in the package above."""
        above, _, name = self.__name__.rpartition(".")
        home, there = vars(sys.modules[above])["_homes"][name]
        return getattr(import_module(home), there)(*given, **named)

    def __setattr__(self, name: str, value: Any) -> None:
        is_module = isinstance(value, ModuleType) and not isinstance(value, _LazyPackage)
        if not (is_module and name in self._homes):  # as import would set it
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._homes})
