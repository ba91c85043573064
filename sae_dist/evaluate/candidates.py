"""The coders of a run that can be measured, before any weights of theirs are read."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch

from sae_dist.coders import Coder, Form, describe_coder, load_coder
from sae_dist.coders.files import DESCRIPTION, WEIGHTS
from sae_dist.common.errors import UserError
from sae_dist.common.joint import width_of
from sae_dist.evaluate.config import EvaluationConfig
from sae_dist.evaluate.measure import Subject
from sae_dist.parallel import Mesh, set_mesh
from sae_dist.stream import ActivationSource

_SAMPLE_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A coder that can be loaded.

    Attributes:
        run, name: the run's folder, and the rung's name in it.
        site, target: what it reads and what it reconstructs.
        fingerprint: differs for other weights.
        load: reads this process' slice, on raw activations.
    """

    run: Path
    name: str
    site: str
    target: str
    num_latents: int
    form: Form
    d_in: int
    d_out: int
    fingerprint: str
    load: Callable[[Mesh], Coder]

    def require(self, source: ActivationSource, config: EvaluationConfig) -> None:
        """Raise UserError for activations, or a mesh, that are not for this coder."""
        if self.num_latents % config.parallel.latent:
            raise UserError(
                f"parallel.latent={config.parallel.latent}; expected a divisor of the "
                f"{self.num_latents} latents of {self.name}; choose another"
            )
        for site, width in ((self.site, self.d_in), (self.target, self.d_out)):
            if width_of(source.widths, site) != width:
                raise UserError(
                    f"{self.name} wants {site} of width {width}; the store has {source.widths}: "
                    "evaluate with store=… set to the store it was trained on"
                )

    def subject(self, mesh: Mesh, num_positions: int, config: EvaluationConfig) -> Subject:
        """The coder, loaded."""
        return Subject(
            coder=self.load(mesh),
            mesh=mesh,
            num_positions=num_positions,
            name=self.name,
            site=self.site,
            target=self.target,
            config=config,
        )


def finished(run: Path, device: torch.device) -> list[Candidate]:
    """Those in `run/coders`, by name. Raises UserError where there are none, or unsound ones."""
    folders = sorted(path.parent for path in (run / "coders").glob("*/coder.json"))
    if not folders:
        raise UserError(
            f"no coders in {run / 'coders'}; expected a finished run: train it to its end first"
        )
    return [_finished(run, folder, device) for folder in folders]


def _finished(run: Path, folder: Path, device: torch.device) -> Candidate:
    description = describe_coder(folder)

    def load(mesh: Mesh) -> Coder:
        part, parts = mesh.latent.index, mesh.latent.size
        return set_mesh(load_coder(folder, device, part=part, parts=parts), mesh)

    return Candidate(
        run=run,
        name=folder.name,
        site=description["about"]["site"],
        target=description["about"]["target"],
        num_latents=description["config"]["num_latents"],
        form=Form(description["config"]["form"]),
        d_in=description["d_in"],
        d_out=description["d_out"],
        fingerprint=_fingerprint(folder),
        load=load,
    )


def _fingerprint(folder: Path) -> str:
    """Of the description, and of the weights' size and first and last MiB: it is taken often."""
    digest = sha256((folder / DESCRIPTION).read_bytes())
    with (folder / WEIGHTS).open("rb") as file:
        size = file.seek(0, 2)
        digest.update(str(size).encode())
        for start in (0, max(0, size - _SAMPLE_BYTES)):
            file.seek(start)
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()
