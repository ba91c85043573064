"""The coders of a base language model's run, and of its finetune's, placed in the finetune."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from sae_dist.coders import describe_coder, load_coder
from sae_dist.common.errors import UserError
from sae_dist.evaluate.lm_loss import Spliced
from sae_dist.evaluate.transfer.config import TransferConfig
from sae_dist.evaluate.transfer.norms import MeanNorm
from sae_dist.lm import LM, Capture, resolve, site_widths
from sae_dist.parallel import Mesh, set_mesh
from sae_dist.stream import ActivationSource


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished run: `on` is "base" or "finetuned", `source` what its coders were trained on."""

    on: str
    folder: Path
    source: ActivationSource


@dataclass(frozen=True, slots=True)
class Subject:
    """A coder under evaluation."""

    run: Trained
    rung: str
    spliced: Spliced

    @property
    def name(self) -> str:
        """The rung's, with its run's before it if that is the finetune's: the two may agree."""
        return self.rung if self.run.on == "base" else f"{self.run.folder.name}/{self.rung}"


def load_subjects(
    trained: Sequence[Trained], lm: LM, mesh: Mesh, device: torch.device
) -> list[Subject]:
    """Every coder of every run; UserError for one that does not fit the finetune."""
    found = [subject for run in trained for subject in _of(run, lm, mesh, device)]
    sites = {s.name: s for f in found for s in (f.spliced.read, f.spliced.write)}
    widths = site_widths(Capture(lm.model, list(sites.values())), device)
    for subject in found:
        coder, read, write = subject.spliced.coder, subject.spliced.read, subject.spliced.write
        for site, width in ((read.name, coder.d_in), (write.name, coder.d_out)):
            if widths[site] != width:
                raise UserError(
                    f"found {site} of width {widths[site]} in {lm.config.name}; expected {width}, "
                    f"as coder {subject.name} has; set transfer.lm_name to a finetune of the run's "
                    "language model"
                )
    return found


def _of(run: Trained, lm: LM, mesh: Mesh, device: torch.device) -> Iterator[Subject]:
    folders = sorted(path.parent for path in (run.folder / "coders").glob("*/coder.json"))
    if not folders:
        raise UserError(
            f"no coders in {run.folder / 'coders'}; expected a finished run: train it first"
        )
    for folder in folders:
        about = describe_coder(folder)["about"]
        coder = load_coder(folder, device, part=mesh.latent.index, parts=mesh.latent.size)
        read, write = (resolve(lm.model, about[key]) for key in ("site", "target"))
        yield Subject(run, folder.name, Spliced(set_mesh(coder, mesh), read, write))


def trained_norms(
    subjects: Sequence[Subject], config: TransferConfig, mesh: Mesh, device: torch.device
) -> dict[tuple[str, str], float]:
    """By run and site the mean norm of what its coders were trained on, of held-out sequences."""
    most, size = config.sequences, config.batch_sequences
    norms: dict[tuple[str, str], float] = {}
    for run in {subject.run.on: subject.run for subject in subjects}.values():
        spliced = [subject.spliced for subject in subjects if subject.run is run]
        sites = sorted({site.name for s in spliced for site in (s.read, s.write)})
        mean_norm = MeanNorm(sites, device)
        for batch in run.source.held_out(sites, mesh.data.index, mesh.data.size, most, size):
            mean_norm.update(batch.acts, batch.trainable)
        norms |= {(run.on, site): norm for site, norm in mean_norm.result(mesh).items()}
    return norms
