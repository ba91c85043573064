"""A training step's passes through a coder, in which only what matters is touched."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from sae_dist.coders.coder import Coder
from sae_dist.coders.config import CoderConfig
from sae_dist.coders.select import top_k
from sae_dist.kernels import aux_pass, encode, host, rounded_dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """One batch through a coder.

    Attributes:
        decoded: gives W_decᵀ f [B, E] of all latents, whose sum over the slices is on its way.
        num_active: active entries of this slice and part, with a gradient where the kind has one.
        fired_F: on how many rows each latent of this slice fired, int64.
        least: gives the smallest activation's size here, infinite if there is none.
    """

    decoded: Callable[[], Tensor]
    num_active: Tensor
    fired_F: Tensor
    least: Callable[[], Tensor]


@dataclass(frozen=True, slots=True)
class DeadLatents:
    """Latents that have been silent for long.

    Attributes:
        mask_F: which of this slice, bool.
        count: how many in all slices (0-dim, int64).
        at_most: what the host knows `count` not to exceed.
    """

    mask_F: Tensor
    count: Tensor
    at_most: int

    @staticmethod
    def of(mask_F: Tensor, count: Tensor | None = None) -> "DeadLatents":
        """The same, where the host may wait for their number; by default these are all."""
        count = mask_F.sum() if count is None else count
        return DeadLatents(mask_F, count, int(count))

    def listed(self) -> tuple[Tensor, Tensor | None]:
        """The dead latents of this slice, rising [d]; where the host does not know how many there
        are, others follow them, and which are dead is said, too.
        """
        if host.is_at_hand(self.mask_F):
            return self.mask_F.nonzero().flatten(), None
        listed_d = (~self.mask_F).byte().argsort(stable=True)[: self.at_most]
        return listed_d, self.mask_F[listed_d]


def sparse_pass(coder: Coder, x_BD: Tensor, config: CoderConfig | None = None) -> Decoded:
    """One batch through the coder, or as if `config` were its own; densely where the kind says."""
    config = config or coder.config
    x_BD, centre_D = coder.centring(x_BD)
    with torch.no_grad():
        found = config.find(coder, x_BD)
    if found is None:
        decoded_BE, num_active, fired_F, smallest = config.dense_pass(coder, x_BD, centre_D)
        least = partial(torch.detach, smallest)
    else:
        code, z_N = found
        z_N = encode(z_N, x_BD, coder.W_enc, coder.b_enc, centre_D, code, coder.gradients)
        acts_N, num_active = config.activate(coder, code, z_N)
        decoded_BE = coder.decode_sparse(code, acts_N)
        if code.num_lost is not None:  # then nobody is to believe what follows
            decoded_BE = decoded_BE.masked_fill(code.num_lost > 0, torch.nan)
        fires_N = None if acts_N is z_N else acts_N.detach() != 0  # None: all that was found
        fired_F = code.count_by_latent(fires_N)
        least = partial(_least, acts_N.detach())
    return Decoded(
        decoded=coder.collectives.start_sum_latents(decoded_BE),
        num_active=num_active,
        fired_F=fired_F,
        least=least,
    )


def _least(acts_N: Tensor) -> Tensor:
    """The smallest size of those that fire, which places of no entry do not."""
    sizes_N = acts_N.abs()
    return pad(sizes_N.where(sizes_N > 0, torch.inf), (0, 1), value=torch.inf).min()


def dead_pass(
    coder: Coder,
    x_BD: Tensor,
    dead: DeadLatents,
    k: int,
    strength: Callable[[Tensor], Tensor],
) -> Callable[[], Tensor]:
    """What the k strongest dead latents of each row make of its error (Gao et al. 2024, App. A.2).

    `ê = W_decᵀ TopK_k of the dead latents' z` [B, E], without b_dec; its sum over the slices is on
    its way. In the dtype of the search: this is a nudge for latents that do not fire, not what they
    give when they do.

    Args:
        dead: which they are, at least one in all slices.
        strength: by what they are ranked, positive where they may fire.
    """
    collectives, x_BD, centre_D = coder.collectives, *coder.centring(x_BD)
    dtype = rounded_dtype(coder.W_enc)
    dead_d, is_dead_d = dead.listed()
    scale_d = None
    if dtype is torch.bfloat16:
        scale_d = _tie_breaking(dead_d + coder.latents.start, coder.config.num_latents)
    if is_dead_d is not None:
        scale_d = is_dead_d.float() if scale_d is None else scale_d * is_dead_d

    def select(z_bd: Tensor) -> Tensor:
        ranked_bd = strength(z_bd)
        return top_k(ranked_bd if scale_d is None else ranked_bd * scale_d, k, collectives)

    weights = coder.W_enc, coder.b_enc, centre_D, coder.W_dec
    return collectives.start_sum_latents(
        aux_pass(x_BD, *weights, dead_d, dead.at_most, k, select, dtype)
    )


def _tie_breaking(latents_d: Tensor, num_latents: int) -> Tensor:
    """Factors [d] in [1, 1 + 2⁻⁸), larger for lower numbers.

    bfloat16 pre-activations often tie. Times these, as float32, they keep their order and hardly
    ever do: `top_k` then need not look for the first among equals, which would be chosen alike.
    """
    shift = max(0, (num_latents - 1).bit_length() - 15)
    return 1 + (2**15 - 1 - (latents_d >> shift)).float() * 2**-23
