"""What a format is: a library whose files are written, read, or both."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from sae_dist.coders import FiresBy, Form, Inputs
from sae_dist.common.errors import UserError

if TYPE_CHECKING:
    import torch

    from sae_dist.coders import Coder, CoderConfig
    from sae_dist.interop.published import ForeignCoder

P = TypeVar("P", bound=PurePath)

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
        files: the names of one coder's files, as they lie in its folder.
        weights: the one among them by which a coder of this format is known. A pattern, as
            `layer*.sae.pt`, where a folder has several coders.
        is_pickle: whether that is a pickle.
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
    forms: ClassVar[tuple[Form, ...]] = tuple(form for form in Form if not form.spans_sites)
    fires_by: ClassVar[tuple[FiresBy, ...]] = tuple(FiresBy)
    signed: ClassVar[bool] = False
    inputs: ClassVar[tuple[Inputs, ...]] = (Inputs.plain,)

    @property
    def is_fetched_by_file(self) -> bool:
        """Whether the Hub is asked for it only by its file's name: a pickle, or one of several."""
        return self.is_pickle or "*" in self.weights

    def folder_of(self, weights: P) -> P:
        """The folder of the coder that has this file of weights."""
        return weights.parents[self.weights.count("/")]

    def settings_of(self, weights: P) -> list[P]:
        """Its other files."""
        folder = self.folder_of(weights)
        return [folder / file for file in self.files if file != self.weights]

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

    def read(self, weights: Path) -> ForeignCoder:
        """Read the coder with this file of weights; UserError where it is not of this format."""
        raise UserError(f"{self.title} is only written here; expected another format; choose one")

    def load(self, weights: Path, device: torch.device | str, part: int, parts: int) -> Coder:
        """A slice of its latents as a coder of ours; see `interop.load_coder`."""
        return self.read(weights).coder(weights, part, parts).to(device)

    def load_described(
        self, weights: Path, device: torch.device | str
    ) -> tuple[Coder, dict[str, Any]]:
        """A whole coder, and what its files say it was trained on: `site` and `target`, if so."""
        published = self.read(weights)
        return published.coder(weights).to(device), published.about
