"""Held-out figures of a ladder in training."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sae_dist.coders.losses import moments, square_sum, total_variance
from sae_dist.common.joint import joined
from sae_dist.stream import ActivationSource, HeldOutPart
from sae_dist.train.ladder import sites_of
from sae_dist.train.rung import Rung

_ENTRIES = 2**24  # rows times latents at once: all of them may fire, as a JumpReLU's do at first


@torch.no_grad()
def held_out_figures(
    rungs: Sequence[Rung], source: ActivationSource, num_tokens: int, batch_tokens: int
) -> dict[str, dict[str, Tensor]]:
    """FVU, L0 and the share of silent latents of each rung, as it would be exported now.

    Called by all processes together. A mesh's parts of the batch share the sequences, and what
    shares the latents reads the same. Nothing of the training is changed.

    Args:
        rungs: of the run.
        source: of which the first held-out sequences are read, `num_tokens` or a little more.
        batch_tokens: read at once by all parts together.

    Returns:
        by rung, the figures by name, on the rung's device.
    """
    num_sequences = -(-num_tokens // source.sequence_length)
    found: dict[str, dict[str, Tensor]] = {}
    for size in sorted({rung.mesh.data.size for rung in rungs}):
        alike = {rung.name: _Sums(rung) for rung in rungs if rung.mesh.data.size == size}
        sites = sites_of([sums.rung.config for sums in alike.values()])
        part = next(iter(alike.values())).rung.mesh.data.index
        together = max(1, batch_tokens // size // source.sequence_length)
        for batch in source.held_out(sites, HeldOutPart(part, size, num_sequences, together)):
            acts = {site: x_NSD[batch.trainable] for site, x_NSD in batch.acts.items()}
            for sums in alike.values():
                sums.add(acts)
        found |= {name: sums.figures() for name, sums in alike.items()}
    return found


class _Sums:
    """What a rung's figures are made of, added up over the rows of one part of the batch."""

    def __init__(self, rung: Rung) -> None:
        coder = rung.coder.eval()
        self.rung, self.sites = rung, (rung.config.site, rung.config.target)
        device = coder.b_dec.device
        self._totals = torch.zeros(3 + coder.d_out + 1, dtype=torch.float64, device=device)
        self._fired_F = torch.zeros(len(coder.latents), dtype=torch.int64, device=device)

    def add(self, acts: dict[str, Tensor]) -> None:
        """Add rows, by site as stored."""
        most = max(1, _ENTRIES // len(self._fired_F))
        both = (joined(acts, site).split(most) for site in self.sites)
        for x_BD, y_BE in zip(*both, strict=True):
            if len(x_BD):
                x_BD = self._cast(x_BD) / self.rung.scale
                self._add(x_BD, self._cast(y_BE) / self.rung.target_scale)

    def _cast(self, x_BD: Tensor) -> Tensor:
        like = self.rung.coder.b_dec
        return x_BD.to(like.device).to(like.dtype)

    def _add(self, x_BD: Tensor, y_BE: Tensor) -> None:
        coder = self.rung.coder
        code, acts_N = coder.encode_sparse(x_BD)
        fired_N = code.latents_N[acts_N != 0]
        self._fired_F += torch.bincount(fired_N, minlength=len(self._fired_F))
        error = square_sum(y_BE - coder.reconstruct_sparse(code, acts_N, x_BD))
        counts = torch.tensor([len(x_BD), len(fired_N)], device=error.device)
        self._totals += torch.cat([error[None], counts, moments(y_BE)])

    def figures(self) -> dict[str, Tensor]:
        """Over all parts and slices."""
        data, latent = self.rung.mesh.data, self.rung.mesh.latent
        totals = data.all_reduce(self._totals)
        error, num_rows, active = totals[:3]
        silent = (data.all_reduce(self._fired_F) == 0).sum()
        return {
            "validation/fvu": error / total_variance(totals[3:], num_rows),
            "validation/l0": latent.all_reduce(active) / num_rows,
            "validation/dead_share": latent.all_reduce(silent) / self.rung.config.coder.num_latents,
        }
