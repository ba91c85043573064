"""What must be known of a coder before its latents are watched."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from sae_dist.coders import Coder, Form
from sae_dist.parallel import Mesh


class Watchable(Protocol):
    """A coder of a run that can be loaded; a candidate of an evaluation is such."""

    @property
    def run(self) -> Path:
        """The run's folder."""

    @property
    def name(self) -> str:
        """The rung's name in it."""

    @property
    def site(self) -> str:
        """What it reads."""

    @property
    def target(self) -> str:
        """What it reconstructs."""

    @property
    def num_latents(self) -> int:
        """F, of all slices."""

    @property
    def form(self) -> Form:
        """What it is."""

    @property
    def d_in(self) -> int:
        """D."""

    @property
    def d_out(self) -> int:
        """E."""

    @property
    def fingerprint(self) -> str:
        """Differs for other weights."""

    @property
    def load(self) -> Callable[[Mesh], Coder]:
        """Reads this process' slice, on raw activations."""
