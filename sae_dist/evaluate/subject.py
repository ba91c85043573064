"""A coder under evaluation, and the measures that it passes through."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sae_dist.coders import Coder, describe_coder, load_coder
from sae_dist.common.errors import UserError
from sae_dist.evaluate.consistency import ConsistentActivation
from sae_dist.evaluate.fidelity import Fidelity
from sae_dist.evaluate.frequency import FiringFrequency
from sae_dist.evaluate.output import Measure, run_coder
from sae_dist.evaluate.position import ReconstructionByPosition
from sae_dist.evaluate.similarity import Similarity
from sae_dist.evaluate.thresholds import threshold_distribution
from sae_dist.parallel import Mesh, World, set_mesh
from sae_dist.stream import ActivationSource, HeldOutBatch


@dataclass(frozen=True, slots=True)
class Subject:
    """This process' slice of a coder, where it reads and what it reconstructs."""

    coder: Coder
    site: str
    target: str
    measures: list[Measure]

    @property
    def sites(self) -> list[str]:
        """The one or two sites it needs."""
        return sorted({self.site, self.target})

    def update(self, batch: HeldOutBatch) -> None:
        """Pass a batch through the coder, into every measure."""
        seen = run_coder(self.coder, *self.part(batch))
        for measure in self.measures:
            measure.update(seen)

    def part(self, batch: HeldOutBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Input, target and mask [N, S, …]; an autoencoder's input and target are one tensor."""
        return batch.acts[self.site], batch.acts[self.target], batch.trainable

    def figures(self, mesh: Mesh) -> dict[str, Any]:
        """What it is, and all that needs no language model."""
        figures = self._about()
        for measure in self.measures:
            figures |= measure.result(mesh)
        return figures | threshold_distribution(self.coder, mesh)

    def _about(self) -> dict[str, Any]:
        config = self.coder.config
        return {
            "kind": config.kind,
            "form": config.form.value,
            "site": self.site,
            "target": self.target,
            "num_latents": config.num_latents,
            "k": None,
            "target_l0": None,
            **config.aim,
            "d_in": self.coder.d_in,
            "d_out": self.coder.d_out,
        }


def load_subjects(
    folder: Path, source: ActivationSource, mesh: Mesh, world: World
) -> dict[str, Subject]:
    """The coders in `folder/coders` by name, each with this process' slice of its latents.

    Raises:
        UserError: there are none, or the source has other sites or widths than theirs.
    """
    folders = sorted(path.parent for path in (folder / "coders").glob("*/coder.json"))
    if not folders:
        raise UserError(
            f"no coders in {folder / 'coders'}; expected a finished run: train it first"
        )
    return {path.name: _subject(path, source, mesh, world) for path in folders}


def _subject(path: Path, source: ActivationSource, mesh: Mesh, world: World) -> Subject:
    about = describe_coder(path)["about"]
    coder = load_coder(path, world.device, part=mesh.latent.index, parts=mesh.latent.size)
    for site, width in ((about["site"], coder.d_in), (about["target"], coder.d_out)):
        if source.widths.get(site) != width:
            raise UserError(
                f"{path.name} wants {site} of width {width}; the store has {source.widths}: "
                "evaluate with store=… set to the store it was trained on"
            )
    return Subject(
        set_mesh(coder, mesh),
        about["site"],
        about["target"],
        measures(coder, source.sequence_length),
    )


def measures(coder: Coder, num_positions: int) -> list[Measure]:
    """All that is measured of a coder, or of a slice of one, without a language model."""
    device, num_held = coder.b_dec.device, len(coder.latents)
    return [
        Fidelity(coder.d_out, device),
        Similarity(device),
        ReconstructionByPosition(num_positions, coder.d_out, device),
        FiringFrequency(num_held, device),
        ConsistentActivation(num_held, device),
    ]
