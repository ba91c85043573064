"""One rung of a ladder: a coder, its mesh, its optimizer, and all that a checkpoint must hold."""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_dist.checkpoint import on_mesh
from sae_dist.coders import (
    DeadLatents,
    LossTerms,
    fold,
    initialise,
    make_coder,
    save_coder,
    scale_of,
    slice_of,
)
from sae_dist.common.errors import UserError
from sae_dist.common.joint import parts_of
from sae_dist.kernels import GradientForm, dispatch, host
from sae_dist.kernels.host import start_reading
from sae_dist.parallel import Mesh, gather_latents, set_mesh
from sae_dist.train.config import Precision, RungConfig
from sae_dist.train.latents import LatentCounters
from sae_dist.train.optimizers import Optimizer, WeightAverage
from sae_dist.train.progress import Progress
from sae_dist.train.rows import SharedRows
from sae_dist.train.warm_start import warm_start


class Rung:
    """A coder in training, as one process of its mesh holds it.

    Args:
        mean_square: E‖x‖² of each site that it reads or writes, or one that all have.

    Attributes:
        scale: C = √E‖x‖² of the input site, or of each column's [D]: x is divided by it.
        target_scale: the same of the target; where that is the input it is `scale`.
        progress: how many steps changed the weights, or did not.
    """

    def __init__(
        self,
        config: RungConfig,
        mesh: Mesh,
        mean_square: float | Mapping[str, float],
        d_in: int,
        d_out: int,
        precision: Precision,
        device: torch.device,
    ) -> None:
        self.config, self.mesh, self.name = config, mesh, config.name
        like = precision.weights, device
        self.scale = scale_of(_mean_squares(config.site, mean_square), d_in, *like)
        self.target_scale = self.scale
        if config.coder.form.scales_target:
            self.target_scale = scale_of(_mean_squares(config.target, mean_square), d_out, *like)
        latents = slice_of(config.coder.num_latents, mesh.latent.index, mesh.latent.size)
        how = {"latents": latents, "dtype": precision.weights, "device": device}
        coder = make_coder(config.coder, d_in, d_out, **how)
        self.coder = set_mesh(coder, mesh)
        self.coder.is_exact = precision is not Precision.bfloat16
        self.optimizer = Optimizer(self.coder, config.optim)
        decay = config.optim.ema_decay
        self.average = WeightAverage(self.coder, decay) if decay else None
        self.counters = LatentCounters(len(latents), device)
        self.progress = Progress(device)
        self._soon_dead: Callable[[], Tensor] | None = None
        self._none_dead = DeadLatents.of(torch.zeros(len(latents), dtype=torch.bool, device=device))

    def gradient_form(self, dead: DeadLatents) -> GradientForm:
        """How a step's gradients are made.

        Of several parts of the batch they are dense, as they are summed; and so are those of
        several passes where the host must not wait to hear which rows these have together.
        """
        optim, coder, is_alone = self.config.optim, self.config.coder, self.mesh.data.size == 1
        is_one = not coder.has_further_passes(has_dead=dead.at_most > 0)
        in_places = optim.takes_places and dispatch.updates_in_places(self.coder.b_dec)
        in_places = in_places and not coder.form.spans_sites  # `project_gradient` takes no places
        return GradientForm(
            by_rows=is_alone and optim.moves_fired_rows_alone,
            sums=None if self.coder.is_exact else torch.bfloat16,
            has_unit_rows=coder.unit_norm_decoder,
            placed={} if is_alone and is_one and in_places else None,
        )

    def initialise(self, seed: int, x_ND: Tensor, y_NE: Tensor) -> None:
        """Give the coder its first weights, from a raw sample that is equal on every process.

        Raises:
            UserError: there is no coder at `init_from`, or one that this rung cannot go on from.
        """
        if self.config.init_from is None:
            initialise(self.coder, seed, x_ND / self.scale, y_NE / self.target_scale)
        else:
            scales = self.scale, self.target_scale
            warm_start(self.config.init_from, self.coder, *scales, self.mesh)

    def start_gather(self, batch: SharedRows) -> None:
        """Begin to gather the rows, while other rungs take their step."""
        for site in (self.config.site, self.config.target):
            batch.start_gather(site, self.mesh)

    def rows(self, batch: SharedRows) -> tuple[Tensor, Tensor]:
        """Input and target [B, D], [B, E] divided by C; one tensor where the sites agree."""
        x_BD = batch.normalised(self.config.site, self.scale, self.mesh)
        return x_BD, batch.normalised(self.config.target, self.target_scale, self.mesh)

    def dead(self) -> Tensor:
        """Which latents held here are dead [F]."""
        return self.counters.dead(self.config.coder.dead_after_tokens)

    def count_dead(self) -> Tensor:
        """How many latents are dead in all slices (0-dim); called by all processes together."""
        return self.mesh.latent.all_reduce(self.dead().sum())

    def dead_latents(self, num_tokens: int) -> DeadLatents:
        """What AuxK reads in a step of so many tokens; called by all processes together.

        On a GPU the host knows at most how many those can be that were dead, or a batch from it, a
        step before.
        """
        after = self.config.coder.dead_after_tokens
        if not self.config.coder.num_aux:
            return self._none_dead
        mask_F = self.counters.dead(after)
        soon_F = self.counters.dead(after - num_tokens)
        counts_2 = self.mesh.latent.all_reduce(torch.stack([mask_F.sum(), soon_F.sum()]))
        if host.is_at_hand(counts_2):
            return DeadLatents.of(mask_F, counts_2[0])
        at_most = int((self._soon_dead or start_reading(counts_2[1]))().numpy())
        self._soon_dead = start_reading(counts_2[1])
        return DeadLatents.of(mask_F, counts_2[0], at_most)

    @torch.no_grad()
    def update_statistics(self, forward: LossTerms, num_tokens: int, skip: Tensor) -> None:
        """Count what fired here in a batch, let the kind follow it (`after_step`), and average.

        Nothing of this after a step that is to be skipped (0-dim, bool).
        """
        number = self.progress.num_updates
        if self.average:
            self.average.update(number, skip)
        fired_F = self.mesh.data.all_reduce(forward.fired_F)
        self.counters.update(fired_F, num_tokens, skip)
        own = self.coder.own_tensors()
        before = [tensor.clone() for tensor in own]
        self.coder.after_step(forward.least, number)
        for tensor, old in zip(own, before, strict=True):
            tensor.copy_(torch.where(skip, old, tensor))

    def tensors(self) -> dict[str, Tensor]:
        """Everything of tensor form that a checkpoint holds, as parts of wholes on the mesh."""
        return {
            f"{self.name}/{name}": on_mesh(tensor, self.mesh.devices, is_slice=is_slice)
            for name, tensor, is_slice in self.held()
        }

    def held(self) -> Iterator[tuple[str, Tensor, bool]]:
        """The same as this process holds it: name, tensor, and whether it is a slice."""
        sliced = self.coder.latent_tensors
        for name, tensor in self.coder.state_dict().items():
            yield name, tensor, name in sliced
        for name, key, state in self.optimizer.tensors():
            yield f"optimizer/{name}/{key}", state, name in sliced
        for name, mean in self.average.weights.items() if self.average else ():
            yield f"average/{name}", mean, name in sliced
        yield "silent", self.counters.silent_F, True
        yield "fired", self.counters.fired_F, True

    def numbers(self) -> dict[str, int]:
        """The plain numbers that a checkpoint holds beside the tensors."""
        return self.progress.numbers() | {"window_tokens": int(self.counters.window_tokens)}

    def set_numbers(self, numbers: dict[str, int]) -> None:
        """Take back what `numbers` gave."""
        self.progress.set_numbers(numbers)
        self.counters.window_tokens.fill_(numbers["window_tokens"])

    def export(self, folder: Path, about: dict[str, Any]) -> None:
        """Write the coder, folded to raw activations, from the mesh's first process.

        With `optim.ema_decay` it is the average one.
        """
        averages = {}
        self.coder.zero_grad()  # a crosscoder's folded weights are copies, and take that room
        if self.average and self.progress.num_updates:
            averages = self.average.rows_at_unit_norm()
        folded = fold(self.coder, self.scale, averages, target_scale=self.target_scale)
        tensors = gather_latents(folded, self.mesh) if self.mesh.data.index == 0 else None
        if tensors is not None:
            about = {**about, "site": self.config.site, "target": self.config.target}
            save_coder(folder / self.name, folded, tensors, about)


def _mean_squares(site: str, mean_square: float | Mapping[str, float]) -> tuple[float, ...]:
    """Of each site side by side. Raises UserError for one that no activation can be divided by."""
    found = {
        part: mean_square if isinstance(mean_square, float) else mean_square[part]
        for part in parts_of(site)
    }
    for part, own in found.items():
        if not 0 < own < math.inf:
            raise UserError(
                f"site {part} has E‖x‖² = {own}; expected finite activations that "
                "are not all zeros: look at the store with sae-dist verify"
            )
    return tuple(found.values())
