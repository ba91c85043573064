"""What a measure of codes is given: some tokens, and what a coder made of them."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.linalg import vecdot

from sae_dist.coders import Coder
from sae_dist.kernels import SparsePattern
from sae_dist.parallel import Axis

_BLOCK_ROWS = {"cpu": 1 << 7, "cuda": 1 << 16}  # in float64 at once: a CPU's cache holds them


class Moments(NamedTuple):
    """Sums of y and ŷ in float64, ȳ being the mean of these tokens.

    Of each token ‖y‖², ‖ŷ‖², ⟨y, ŷ⟩, ‖y-ŷ‖² and ‖y-ȳ‖² [B]; over the tokens Σy and Σ(y-ŷ) [E].
    """

    square_B: Tensor
    reconstruction_square_B: Tensor
    product_B: Tensor
    error_B: Tensor
    within_B: Tensor
    sum_E: Tensor
    error_sum_E: Tensor


def moments(y_BE: Tensor, ŷ_BE: Tensor) -> Moments:
    """Sum products and squares block by block."""
    num_rows = _BLOCK_ROWS[y_BE.device.type]
    sum_E, error_sum_E = torch.zeros(2, y_BE.shape[1], dtype=torch.float64, device=y_BE.device)
    parts = []
    for y_bE, ŷ_bE in zip(y_BE.split(num_rows), ŷ_BE.split(num_rows), strict=True):
        y_bE, ŷ_bE = y_bE.double(), ŷ_bE.double()
        error_bE = y_bE - ŷ_bE
        sum_E += y_bE.sum(0)
        error_sum_E += error_bE.sum(0)
        pairs = (y_bE, y_bE), (ŷ_bE, ŷ_bE), (y_bE, ŷ_bE), (error_bE, error_bE)
        parts.append(torch.stack([vecdot(a_bE, b_bE) for a_bE, b_bE in pairs]))
    mean_E = sum_E / len(y_BE)
    centred = (y_bE - mean_E for y_bE in y_BE.split(num_rows))
    within_B = torch.cat([vecdot(y_bE, y_bE) for y_bE in centred])
    square_B, reconstruction_square_B, product_B, error_B = torch.cat(parts, 1)
    return Moments(
        square_B, reconstruction_square_B, product_B, error_B, within_B, sum_E, error_sum_E
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class CoderOutput:
    """The trainable tokens of whole sequences, with one coder's code and reconstruction of them.

    Attributes:
        y_BE, reconstruction_BE: the target and what all latents together make of it.
        code, acts_N: which latents of this slice are active on which token, and how strongly.
        sequence_B, position_B: where each token stands, int64; sequences are counted from 0 here.
        input_ids_NS: the whole sequences, where there are any.
    """

    y_BE: Tensor
    reconstruction_BE: Tensor
    code: SparsePattern
    acts_N: Tensor
    sequence_B: Tensor
    position_B: Tensor
    input_ids_NS: Tensor | None = None

    def __len__(self) -> int:
        return len(self.y_BE)

    @cached_property
    def error_BE(self) -> Tensor:
        """y - ŷ in float64."""
        return self.y_BE.double() - self.reconstruction_BE

    @property
    def input_ids_B(self) -> Tensor:
        """The tokens themselves; what stands around one is in its row of `input_ids_NS`."""
        assert self.input_ids_NS is not None
        return self.input_ids_NS[self.sequence_B.cpu(), self.position_B.cpu()]

    @cached_property
    def moments(self) -> Moments:
        """What several measures read of the target and its reconstruction."""
        return moments(self.y_BE, self.reconstruction_BE)

    @cached_property
    def active(self) -> tuple[SparsePattern, Tensor]:
        """The entries that are not zero: pattern and values."""
        return self.code.keep(self.acts_N != 0, self.acts_N)


@torch.no_grad()
def run_coder(
    coder: Coder,
    x_NSD: Tensor,
    y_NSE: Tensor,
    trainable_NS: Tensor,
    input_ids_NS: Tensor | None = None,
) -> CoderOutput:
    """Pass the trainable tokens of some sequences [N, S] through a coder, in its dtype."""
    device, dtype = coder.b_dec.device, coder.dtype
    x_BD = x_NSD[trainable_NS].to(device, dtype)
    y_BE = x_BD if y_NSE is x_NSD else y_NSE[trainable_NS].to(device, dtype)
    sequence_B, position_B = trainable_NS.to(device).nonzero(as_tuple=True)
    code, acts_N = coder.encode_sparse(x_BD)
    return CoderOutput(
        y_BE=y_BE,
        reconstruction_BE=coder.reconstruct_sparse(code, acts_N, x_BD),
        code=code,
        acts_N=acts_N,
        sequence_B=sequence_B,
        position_B=position_B,
        input_ids_NS=input_ids_NS,
    )


def whole_code(coder: Coder, seen: CoderOutput, axis: Axis) -> tuple[SparsePattern, Tensor]:
    """The code of all slices of a coder: pattern and values, in each row latents rising.

    Called by all processes of the latent axis together.
    """
    code, latents_N = seen.code, seen.code.latents_N + coder.latents.start
    if axis.size == 1:
        return code, seen.acts_N
    rows_N, latents_N, acts_N = (
        axis.all_gather_uneven(v) for v in (code.rows_N, latents_N, seen.acts_N)
    )
    num_latents = coder.config.num_latents
    order_N = (rows_N * num_latents + latents_N).argsort()
    whole = SparsePattern.from_rows(rows_N[order_N], latents_N[order_N], len(seen), num_latents)
    return whole, acts_N[order_N]
