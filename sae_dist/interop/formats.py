"""The formats that coders are written in, by name: one module each."""

from pathlib import Path
from typing import Any, Protocol

from sae_dist.coders import Coder, CoderConfig, config_of
from sae_dist.common.errors import UserError
from sae_dist.common.hooks import layer_of
from sae_dist.interop import dictionary_learning, gemma_scope, native, saelens, sparsify
from sae_dist.interop.config import FormatName
from sae_dist.interop.published import ForeignCoder


class Format(Protocol):
    """What a module says of its format.

    Attributes:
        TITLE: its name for readers.
        WEIGHTS: the file by which a folder of this format is known.
        LOADING: Python that loads a coder, with `{repo}` and `{path}` to be filled in.
    """

    TITLE: str
    WEIGHTS: str
    LOADING: str

    @property
    def FILES(self) -> tuple[str, ...]:
        """The names of the files of one coder."""

    def unsupported_reason(
        self, config: CoderConfig, d_in: int, d_out: int, about: dict[str, Any]
    ) -> str | None:
        """Why this format cannot hold a coder of these sites; None if it can."""

    def write(self, folder: Path, coder: Coder, about: dict[str, Any]) -> None:
        """Write a whole coder over any that is there, `about` as in its `coder.json`."""


class Readable(Format, Protocol):
    """A format of others, which can be read as well."""

    def read(self, folder: Path) -> ForeignCoder:
        """Read one coder's folder; UserError where it is not of this format."""


FOREIGN: dict[FormatName, Readable] = {
    FormatName.saelens: saelens,
    FormatName.sparsify: sparsify,
    FormatName.gemma_scope: gemma_scope,
    FormatName.dictionary_learning: dictionary_learning,
}
FORMATS: dict[FormatName, Format] = {**FOREIGN, FormatName.sae_dist: native}
PICKLES = {dictionary_learning.WEIGHTS}
"""Files that are never fetched from the Hub."""


def require_holds(name: FormatName, rung: str, description: dict[str, Any]) -> None:
    """Refuse a coder that a format cannot hold, with the reason and the nearest that can.

    Args:
        name: of the format.
        rung: the coder's name.
        description: see `coders.describe_coder`.
    """
    widths = description["d_in"], description["d_out"]
    shape = config_of(description["config"]), *widths, description["about"]
    reason = FORMATS[name].unsupported_reason(*shape)
    if reason:
        nearest = next(
            n for n, other in FORMATS.items() if other.unsupported_reason(*shape) is None
        )
        raise UserError(
            f"{rung}: {reason}; export it with to={nearest}, or name the others with rungs=[…]"
        )


def place(
    name: FormatName, rung: str, about: dict[str, Any], num_latents: int, l0: float | None
) -> str:
    """The folder of a coder among the others: its name, or as Gemma Scope's are called.

    Raises:
        UserError: Gemma Scope's names need a layer and a measured L0.
    """
    if name is not FormatName.gemma_scope:
        return rung
    layer = layer_of(about["site"])
    if layer is None:
        raise UserError(
            f"{rung}: Gemma Scope's folders are named by layer, and site {about['site']} has none; "
            "export it with to=saelens, or name the others with rungs=[…]"
        )
    if l0 is None:
        raise UserError(
            f"{rung}: Gemma Scope's folders are named by L0, which was not measured; "
            "run sae-dist evaluate first"
        )
    return f"layer_{layer}/width_{_thousands(num_latents)}/average_l0_{round(l0)}"


def _thousands(number: int) -> str:
    """16384 as 16k, 1048576 as 1m: Gemma Scope's way."""
    for size, unit in ((10**6, "m"), (10**3, "k")):
        if number >= size:
            return f"{number // size}{unit}"
    return str(number)
