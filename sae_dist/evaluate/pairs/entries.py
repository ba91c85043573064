"""What fired in all slices of a coder."""

from typing import NamedTuple

from torch import Tensor

from sae_dist.coders import Coder
from sae_dist.evaluate.seen import Seen
from sae_dist.parallel import Axis


class Entries(NamedTuple):
    """Row, latent (numbered in the whole coder) and activation of each entry, slice by slice."""

    rows_N: Tensor
    latents_N: Tensor
    acts_N: Tensor


def all_entries(coder: Coder, seen: Seen, axis: Axis) -> Entries:
    """The entries of all slices' codes; called by all processes of the latent axis together."""
    latents_N = seen.code.latents_N + coder.latents.start
    return Entries(*(axis.join_uneven(v) for v in (seen.code.rows_N, latents_N, seen.acts_N)))
