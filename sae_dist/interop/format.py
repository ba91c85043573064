"""What a format is: a library whose files are written, read, or both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sae_dist.coders import FiresBy, Form, Inputs
from sae_dist.common.errors import UserError

if TYPE_CHECKING:
    import torch

    from sae_dist.coders import Coder, CoderConfig
    from sae_dist.interop.published import ForeignCoder

_IN_WORDS = {
    FiresBy.rank: "the k largest of each row",
    FiresBy.threshold: "a threshold",
    FiresBy.thresholds: "a threshold a latent",
}


class Format:
    """One file in `interop/formats/`, or one class of another package.

    Attributes:
        name: what stands behind `to=`.
        title: what readers call it.
        library: that loads it, as the Hub names libraries.
        files: the names of one coder's files.
        weights: the one among them by which a folder of this format is known.
        is_pickle: whether that is a pickle: then it is never fetched from the Hub.
        loading: Python that loads a coder there, with `{repo}` and `{path}` to be filled in.
        forms, fires_by, signed, inputs: which coders it holds: their forms, what may decide whether
            a latent fires, whether activations may be negative, and what they may see of inputs.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    library: ClassVar[str] = "sae_dist"
    files: ClassVar[tuple[str, ...]]
    weights: ClassVar[str]
    is_pickle: ClassVar[bool] = False
    loading: ClassVar[str] = ""
    forms: ClassVar[tuple[Form, ...]] = tuple(Form)
    fires_by: ClassVar[tuple[FiresBy, ...]] = tuple(FiresBy)
    signed: ClassVar[bool] = False
    inputs: ClassVar[tuple[Inputs, ...]] = (Inputs.plain,)

    def unsupported_reason(
        self, config: CoderConfig, d_in: int, d_out: int, about: dict[str, Any]
    ) -> str | None:
        """Why this format cannot hold such a coder; None if it can.

        Args:
            config: kind, form and width.
            d_in, d_out: the widths of its input and of its output.
            about: `site` and `target`, and what else it was trained on.
        """
        if config.inputs not in self.inputs:
            return f"{self.title} does not give each token the norm 1, as this coder's input has"
        if config.signed and not self.signed:
            return f"{self.title} has no negative activations, as {config.title} gives"
        if config.fires_by not in self.fires_by:
            known = " or ".join(_IN_WORDS[way] for way in self.fires_by)
            return f"{self.title} wants {known}, which {config.title} has not"
        if config.form not in self.forms:
            return f"{self.title} has no {config.form.replace('_', ' ')}s"
        return None

    def place(self, rung: str, description: dict[str, Any], l0: float | None) -> str:
        """The folder of a coder among the others: its name, if the format has no other custom.

        Args:
            rung: its name.
            description: see `coders.describe_coder`.
            l0: as it was measured, if it was.

        Raises:
            UserError: it has no place.
        """
        return rung

    def write(self, folder: Path, coder: Coder, about: dict[str, Any]) -> None:
        """Write a whole coder on raw activations over any that is there.

        Its weights may be larger than memory: they are to be read block by block, as
        `coders.files.write_values` does.
        """
        raise UserError(f"{self.title} is only read here; expected another format; choose one")

    def read(self, folder: Path) -> ForeignCoder:
        """Read one coder's folder; UserError where it is not of this format."""
        raise UserError(f"{self.title} is only written here; expected another format; choose one")

    def load(self, folder: Path, device: torch.device | str, part: int, parts: int) -> Coder:
        """A slice of its latents as a coder of ours; see `interop.load_coder`."""
        return self.read(folder).coder(folder, part, parts).to(device)

    def load_described(
        self, folder: Path, device: torch.device | str
    ) -> tuple[Coder, dict[str, Any]]:
        """A whole coder, and what its files say it was trained on: `site` and `target`, if so."""
        published = self.read(folder)
        return published.coder(folder).to(device), published.about
