"""A training step's passes through a coder, in which only what matters is touched."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from sae_dist.coders.coder import Coder
from sae_dist.coders.config import CoderConfig
from sae_dist.coders.cross_layer import CrossLayerTranscoder
from sae_dist.coders.levels import dense_pass
from sae_dist.coders.select import top_k
from sae_dist.kernels import SparsePattern, aux_pass, encode, host, rounded_dtype

Sums = Callable[[Tensor, Tensor], dict[str, Tensor]]
"""From y and the first pass' error y - ŷ [B, E] to sums over the rows here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """One batch through a coder.

    Attributes:
        decoded: gives W_decᵀ f [B, E] of the entries of each level, whose sum over the slices is on
            its way.
        sums: gives `active` entries of this slice and part, with a gradient where the kind has one,
            and what else the kind sums.
        fired_F: on how many rows each latent of this slice fired, int64.
        least: gives the smallest activation's size here, infinite if there is none.
    """

    decoded: Callable[[], Sequence[Tensor]]
    sums: Sums
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
    def of(
        mask_F: Tensor, count: Tensor | None = None, at_most: int | None = None
    ) -> "DeadLatents":
        """The same; by default these are all, and the host waits for their number."""
        count = mask_F.sum() if count is None else count
        return DeadLatents(mask_F, count, _of_few(int(count) if at_most is None else at_most))

    def listed(self) -> tuple[Tensor, Tensor]:
        """The dead latents of this slice, rising, then a few others [d]; which of them are dead.

        Their number changes from step to step. A CPU's products keep memory for every shape that
        they have seen, a GPU's host does not know the number: so there are few lengths, or one.
        """
        num = self.at_most
        if host.is_at_hand(self.mask_F):
            num = _of_few(int(self.mask_F.sum()))
        listed_d = (~self.mask_F).byte().argsort(stable=True)[:num]
        return listed_d, self.mask_F[listed_d]

    def by_layer(self, num_layers: int) -> list["DeadLatents"]:
        """Those of each layer of a cross-layer transcoder, which may be all that there are."""
        masks = self.mask_F.unflatten(0, (-1, num_layers)).unbind(1)
        return [replace(self, mask_F=mask_f) for mask_f in masks]


def sparse_pass(coder: Coder, x_BD: Tensor, config: CoderConfig | None = None) -> Decoded:
    """One batch through the coder, or as if `config` were its own; densely where the kind says.

    A cross-layer transcoder has `least` by layer [L].
    """
    config = config or coder.config
    if isinstance(coder, CrossLayerTranscoder):
        decoded, sums, fired_F, least = _pass_of_layers(coder, x_BD, config)
    else:
        decoded, sums, fired_F, least = _local_pass(coder, x_BD, config)
    arrive, num_rows = coder.collectives.start_sum_latents(decoded), len(x_BD)
    return Decoded(
        decoded=lambda: arrive().split(num_rows) if config.num_levels > 1 else [arrive()],
        sums=sums,
        fired_F=fired_F,
        least=least,
    )


def _pass_of_layers(
    coder: CrossLayerTranscoder, x_BD: Tensor, config: CoderConfig
) -> tuple[Tensor, Sums, Tensor, Callable[[], Tensor]]:
    one = config.of_layer(len(coder.layers))
    own = zip(coder.layers, coder.by_layer(x_BD), strict=True)
    passes = [_local_pass(layer, x_Bd, one) for layer, x_Bd in own]
    decoded, sums, fired, least = zip(*passes, strict=True)

    def of_all(y_BE: Tensor, error_BE: Tensor) -> dict[str, Tensor]:
        of_layers = [own_sums(y_BE, error_BE) for own_sums in sums]
        return {name: torch.stack([own[name] for own in of_layers]).sum() for name in of_layers[0]}

    def of_each() -> Tensor:
        return torch.stack([of_layer() for of_layer in least])

    return coder.sum_of(decoded), of_all, coder.through(fired), of_each


def _local_pass(
    coder: Coder, x_BD: Tensor, config: CoderConfig
) -> tuple[Tensor, Sums, Tensor, Callable[[], Tensor]]:
    """What this slice decodes to, of levels one below the other [L·B, E], and as `Decoded` has them
    the rest.
    """
    centred_BD, centre_D = coder.centring(x_BD)
    with torch.no_grad():
        found = config.find(coder, centred_BD)
    if found is None:
        decoded, active, fired_F, smallest = dense_pass(coder, config, centred_BD, centre_D)
        least = partial(torch.detach, smallest)
        return decoded, lambda y_BE, error_BE: {"active": active}, fired_F, least
    code, z_N = found
    z_N = encode(z_N, centred_BD, coder.W_enc, coder.b_enc, centre_D, code, coder.gradients)
    acts_N, sums = config.activate(coder, code, z_N, x_BD)
    decoded = coder.decode_sparse(*_by_level(coder, config, code, acts_N))
    if code.num_lost is not None:  # then nobody is to believe what follows
        decoded = decoded.masked_fill(code.num_lost > 0, torch.nan)
    fires_N = None if acts_N is z_N else acts_N.detach() != 0  # None: all that was found
    return decoded, sums, code.count_by_latent(fires_N), partial(_least, acts_N.detach())


def _by_level(
    coder: Coder, config: CoderConfig, code: SparsePattern, acts_N: Tensor
) -> tuple[SparsePattern, Tensor]:
    """The entries with a row for each level of each row, of several levels."""
    if config.num_levels == 1:
        return code, acts_N
    level_N = config.level_of_entries(coder, code, acts_N.detach())
    split, order_N = code.split_rows(level_N, config.num_levels)
    return split, acts_N.gather(0, order_N)


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
    its way. Of a cross-layer transcoder they are each layer's k. In the dtype of the search: this
    is a nudge for latents that do not fire, not what they give when they do.

    Args:
        dead: which they are, at least one in all slices.
        strength: by what they are ranked, positive where they may fire.
    """
    if isinstance(coder, CrossLayerTranscoder):
        of_layers = dead.by_layer(len(coder.layers))
        own = zip(coder.layers, coder.by_layer(x_BD), of_layers, strict=True)
        decoded = coder.sum_of([_local_dead_pass(*one, k, strength) for one in own])
    else:
        decoded = _local_dead_pass(coder, x_BD, dead, k, strength)
    return coder.collectives.start_sum_latents(decoded)


def _local_dead_pass(
    coder: Coder,
    x_BD: Tensor,
    dead: DeadLatents,
    k: int,
    strength: Callable[[Tensor], Tensor],
) -> Tensor:
    """What this slice of a coder, or of a layer of one, decodes to."""
    x_BD, centre_D = coder.centring(x_BD)
    dtype = rounded_dtype(coder.W_enc)
    dead_d, is_dead_d = dead.listed()
    if dtype is torch.bfloat16:
        first = coder.latents.start
        scale_d = _tie_breaking(dead_d + first, coder.config.num_latents) * is_dead_d
    else:
        scale_d = is_dead_d.float()

    def select(z_bd: Tensor) -> Tensor:
        return top_k(strength(z_bd) * scale_d, k, coder.collectives)

    weights = coder.W_enc, coder.b_enc, centre_D, coder.W_dec
    return aux_pass(x_BD, *weights, dead_d, dead.at_most, k, select, dtype)


def _of_few(number: int) -> int:
    """A number of few, at least this one and at most an eighth more: shapes change seldom."""
    step = 1 << max(0, number.bit_length() - 4)
    return -(-number // step) * step


def _tie_breaking(latents_d: Tensor, num_latents: int) -> Tensor:
    """Factors [d] in [1, 1 + 2⁻⁸), larger for lower numbers.

    bfloat16 pre-activations often tie. Times these, as float32, they keep their order and hardly
    ever do: `top_k` then need not look for the first among equals, which would be chosen alike.
    """
    shift = max(0, (num_latents - 1).bit_length() - 15)
    return 1 + (2**15 - 1 - (latents_d >> shift)).float() * 2**-23
