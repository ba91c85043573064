"""What a measure is given: some tokens, and what a coder made of them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from sae_dist.coders import Coder
from sae_dist.kernels import Code
from sae_dist.parallel import Mesh


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """The trainable tokens of whole sequences, with one coder's code and reconstruction of them.

    Attributes:
        y_BE, reconstruction_BE: the target and what all latents together make of it.
        code, acts_N: which latents of this slice are active on which token, and how strongly.
        sequence_B, position_B: where each token stands, int64; sequences are counted from 0 here.
    """

    y_BE: Tensor
    reconstruction_BE: Tensor
    code: Code
    acts_N: Tensor
    sequence_B: Tensor
    position_B: Tensor

    def __len__(self) -> int:
        return len(self.y_BE)

    @cached_property
    def error_BE(self) -> Tensor:
        """y - ŷ in float64."""
        return self.y_BE.double() - self.reconstruction_BE

    @cached_property
    def square_error_B(self) -> Tensor:
        """‖y - ŷ‖² in float64."""
        return self.error_BE.square().sum(1)


class Measure(Protocol):
    """Sums over tokens. What parts of the tokens or slices of the latents give can be added up."""

    def update(self, seen: Seen) -> None:
        """Add some tokens."""

    def result(self, mesh: Mesh) -> dict[str, Any]:
        """The figures by name, over all tokens and latents; called by all processes together."""


@torch.no_grad()
def see(coder: Coder, x_NSD: Tensor, y_NSE: Tensor, trainable_NS: Tensor) -> Seen:
    """Pass the trainable tokens of some sequences [N, S] through a coder, in its dtype."""
    device, dtype = coder.b_dec.device, coder.W_enc.dtype
    x_BD, y_BE = (v[trainable_NS].to(device, dtype) for v in (x_NSD, y_NSE))
    sequence_B, position_B = trainable_NS.to(device).nonzero(as_tuple=True)
    code, acts_N = coder.encode_sparse(x_BD)
    return Seen(
        y_BE=y_BE,
        reconstruction_BE=coder.reconstruct_sparse(code, acts_N, x_BD),
        code=code,
        acts_N=acts_N,
        sequence_B=sequence_B,
        position_B=position_B,
    )
