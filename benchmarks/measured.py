"""What coders of any program are trained and measured on, and how they are measured."""

from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.activations import made, write_activations
from benchmarks.trained.task import kind_and_form
from sae_dist.apps.harvested import load_harvested
from sae_dist.coders import Coder, Form, JumpReLU, fold, kind_named
from sae_dist.evaluate import Fidelity, Subject, run_coder
from sae_dist.evaluate.lm_batch import LMBatch
from sae_dist.evaluate.measures.frequency import FiringFrequency
from sae_dist.evaluate.measures.lm_loss import LMLoss
from sae_dist.parallel import World, make_mesh
from sae_dist.store import open_store
from sae_dist.stream import HeldOutPart, StoredActivations

_BATCH, _LM_SEQUENCES, _LM_BATCH = 4096, 16, 8


class HeldOut:
    """The held-out tokens of a store, and some sequences of them in its language model.

    Args:
        store: made where it is known and not there.
        world: of this process alone.
    """

    def __init__(self, store: Path, world: World) -> None:
        self.store, self.world = store, world
        self.source = StoredActivations(open_store(made(store)))

    @cached_property
    def in_lm(self) -> list[LMBatch]:
        """The first sequences, clean; none of a store that no language model filled."""
        if self.source.about.get("lm") is None:
            return []
        device = self.world.device
        lm = load_harvested(self.source.about["lm"], None, device, trust_remote_code=False)
        part = HeldOutPart(max_sequences=_LM_SEQUENCES, batch_sequences=_LM_BATCH)
        return [LMBatch(lm, b.input_ids, b.trainable) for b in self.source.held_out([], part)]


class Activations:
    """One site's activations, or a site's and its target's, in a file that every program reads.

    Args:
        held_out: of the store that they are in.
        sites: what is read, and the target where that is another.
        tokens: to train on.
        batch: tokens of a step.
        folder: of the file.
    """

    def __init__(
        self, held_out: HeldOut, sites: tuple[str, ...], tokens: int, batch: int, folder: Path
    ) -> None:
        self.held_out, self.site, self.target = held_out, sites[0], sites[-1]
        self.path = folder / f"{'-'.join(sites)}.safetensors"
        write_activations(held_out.store, sites, tokens, self.path, batch)
        given = load_file(self.path)
        self.scales = float(given["scale"]), float(given["target_scale"])
        self.x_MD = given["held_out"]
        self.y_MD = given.get("held_out_target", self.x_MD)

    def measured(self, coder: Coder) -> dict[str, float]:
        """L0, FVU and dead share on the held-out rows, and what the language model loses on some
        held-out sequences.

        Args:
            coder: of activations divided by the scales.
        """
        held_out = self.held_out
        subject = replace(
            subject_of(coder, self.scales, held_out.world),
            num_positions=held_out.source.sequence_length,
            site=self.site,
            target=self.target,
        )
        found = measured(subject, self.x_MD, self.y_MD)
        if not held_out.in_lm:
            return found
        loss = LMLoss(subject)
        for batch in held_out.in_lm:
            loss.update(batch)
        return found | {"delta_loss": loss.result()["delta_loss"]}


def subject_of(coder: Coder, scales: tuple[float, float], world: World) -> Subject:
    """What measures are given of a coder of inputs and targets divided by scales."""
    folded = fold(coder, scales[0], target_scale=scales[1]).to(world.device)
    return Subject(coder=folded, mesh=make_mesh(world, 1, {}), num_positions=1)


@torch.no_grad()
def measured(subject: Subject, x_MD: Tensor, y_ME: Tensor) -> dict[str, float]:
    """L0, FVU and dead share on some rows: those of `sae_dist.evaluate`, for every program."""
    measures, device = [Fidelity(subject), FiringFrequency(subject)], subject.device
    for x_BD, y_BE in zip(x_MD.split(_BATCH), y_ME.split(_BATCH), strict=True):
        x_1BD, y_1BE = x_BD.to(device)[None], y_BE.to(device)[None]
        everything = torch.ones(x_1BD.shape[:2], dtype=torch.bool, device=device)
        seen = run_coder(subject.coder, x_1BD, y_1BE, everything)
        for measure in measures:
            measure.update(seen)
    result = measures[0].result() | measures[1].result()
    return {key: result[key] for key in ("l0", "fvu", "dead_share")}


def as_coder(weights: dict[str, Tensor], name: str, k: int) -> Coder:
    """The coder of some weights: by their threshold a JumpReLU, without one a TopK or AbsTopK.

    Args:
        weights: as a program wrote them.
        name: of the kind, with its form.
        k: of what has no threshold.
    """
    kind, form = kind_and_form(name)
    num_latents, d_in = weights["W_enc"].shape
    told = {"num_latents": num_latents, "form": Form(form)}
    if "threshold" in weights:
        config = JumpReLU(**told)
    else:
        config = kind_named("abstopk" if kind == "abstopk" else "topk")(k=k, **told)
    coder = Coder(config, d_in, weights["W_dec"].shape[1], pre_bias=False).eval()
    coder.load_state_dict(weights)
    return coder
