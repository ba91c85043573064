"""What fired in all slices of a coder."""

from typing import NamedTuple

from torch import Tensor

from sae_dist.coders import Coder
from sae_dist.evaluate.output import CoderOutput
from sae_dist.parallel import Axis


class Entries(NamedTuple):
    """Row, latent (numbered in the whole coder) and activation of each entry: row by row, latents
    rising.
    """

    rows_N: Tensor
    latents_N: Tensor
    acts_N: Tensor


def all_entries(coder: Coder, seen: CoderOutput, axis: Axis) -> Entries:
    """The entries of all slices' codes; called by all processes of the latent axis together."""
    own = Entries(seen.code.rows_N, seen.code.latents_N + coder.latents.start, seen.acts_N)
    if axis.size == 1:
        return own
    joined = Entries(*(axis.all_gather_uneven(v) for v in own))
    order_N = (joined.rows_N * coder.config.num_latents + joined.latents_N).argsort()
    return Entries(*(v[order_N] for v in joined))
