"""What a hand-off is: what another tool reads of a run, beyond a coder's weights."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from sae_dist.common.errors import UserError
from sae_dist.common.files import atomic_path
from sae_dist.common.hooks import hook_name, layer_of
from sae_dist.latents import Latents, rungs_with_latents
from sae_dist.latents.folder import FOLDER

Texts = Sequence[bytes]
"""The bytes of each token by id, as `text.vocabulary` gives them."""


class Handoff:
    """One file in `handoff/`, or one class of another package (`sae_dist.handoffs`).

    Attributes:
        name: what stands behind `to=`.
        title: what readers call it.
        needs_texts: whether it shows tokens as text, for which there must be a tokenizer.
        is_by_layer: whether it files latents by layer, which their site then must have.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    needs_texts: ClassVar[bool] = True
    is_by_layer: ClassVar[bool] = False

    def rungs(self, run: Path) -> list[str]:
        """The rungs of a run that may be handed off: those whose latents are there.

        Raises:
            UserError: there is none.
        """
        if names := rungs_with_latents(run):
            return names
        raise UserError(
            f"found no latents in {run / FOLDER}, of which the files for {self.title} are made; "
            f"expected those of a rung; sae-dist latents run={run.name} makes them"
        )

    def check(self, run: Path, rungs: Sequence[str]) -> None:
        """Raise UserError where these rungs cannot be handed off; nothing is written before."""
        for name in rungs if self.is_by_layer else ():
            layer_and_hook(Latents(run, name), self.title)

    def write(self, folder: Path, run: Path, rungs: Sequence[str], texts: Texts | None) -> None:
        """Write what is known of these rungs, a range of latents at a time.

        Args:
            folder: made if absent; what was written there before is replaced.
            run: the run's folder.
            rungs: names of some of its rungs.
            texts: None where there is no tokenizer.
        """
        raise NotImplementedError


@contextmanager
def written_anew(folder: Path, mark: str) -> Iterator[Path]:
    """Where to write files that become `folder` when all are there, instead of what it held.

    Raises:
        UserError: it holds something else: there is no file `mark`, which every such folder has.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / mark).is_file():
        raise UserError(
            f"found {folder}, which no hand-off of this sort wrote (it has no {mark}); expected "
            "a new folder; choose another with folder=…"
        )
    shutil.rmtree(folder, ignore_errors=True)
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        yield temporary


def layer_and_hook(latents: Latents, title: str) -> tuple[int, str]:
    """The layer of what a rung reads, and TransformerLens' name of it.

    Raises:
        UserError: its site has no layer.
    """
    site = latents.rung.site
    if (layer := layer_of(site)) is None:
        raise UserError(
            f"{latents.rung.rung}: {title} files latents by layer, and site {site} has none; "
            "choose others with rungs=[…]"
        )
    lm = latents.about.lm or {}
    return layer, hook_name(site, folds_norms=bool(lm.get("fold_norms")))
