"""Gated: what fires and how much are told apart (Rajamanoharan et al. 2024a)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from sae_dist import coders, kernels
from sae_dist.coders.config import TensorSpec
from sae_dist.coders.kinds.relu import ReLU
from sae_dist.common.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from sae_dist.coders.coder import Coder
    from sae_dist.coders.config import Entries, Sums
    from sae_dist.coders.losses import Totals
    from sae_dist.coders.messages import Message, StepShape
    from sae_dist.coders.passes import DeadLatents
    from sae_dist.kernels import SparsePattern


@dataclass(kw_only=True)
class Gated(ReLU):
    """A latent fires where its gate π = W_enc (x - b_dec) + b_enc is above 0, with the activation
    ReLU(exp(r) π + b): b is the paper's b_mag without exp(r) b_enc.

    The loss is the mean squared error, λ = `sparsity_coefficient` times the mean of Σ ReLU(π) ‖d‖,
    and the mean squared error of what ReLU(π) decodes to, with a decoder that this does not move
    (eq. 8).
    """

    title = "Gated"

    kind: str = field(default="gated", init=False)

    def tensors(self) -> dict[str, TensorSpec]:
        return {
            "r_mag": TensorSpec(has_latents=True, is_trained=True, scales=False),
            "b_mag": TensorSpec(has_latents=True, is_trained=True),
        }

    def initialise(self, coder: Coder, x_ND: Tensor) -> None:
        super().initialise(coder, x_ND)
        for name in self.tensors():
            coder.get_parameter(name).zero_()

    def of_layer(self, num_layers: int) -> Self:
        raise UserError(
            "a gated cross-layer transcoder; expected another kind, as what its gates decode to "
            "would have to be of all layers: choose coder=jumprelu_cross_layer_transcoder"
        )

    def activate(
        self, coder: Coder, code: SparsePattern, z_N: Tensor, x_BD: Tensor
    ) -> tuple[Tensor, Sums]:
        gate_N, of_gates = super().activate(coder, code, z_N, x_BD)
        acts_N = _magnitude(coder, gate_N, code.index_N)
        decoded_BE = kernels.decode(gate_N, coder.W_dec.detach(), code)
        arrive = coder.collectives.start_sum_latents(decoded_BE)

        def sums(y_BE: Tensor, error_BE: Tensor) -> dict[str, Tensor]:
            left_BE = y_BE - coder.b_dec.detach() - arrive()
            if coder.W_skip is not None:
                left_BE = left_BE - x_BD @ coder.W_skip.detach().T
            own = {"active": (acts_N > 0).sum(), "gates": coders.square_sum(left_BE)}
            return of_gates(y_BE, error_BE) | own

        return acts_N, sums

    def infer(self, coder: Coder, x_BD: Tensor) -> Entries:
        code, z_N = super().infer(coder, x_BD)
        acts_N = _magnitude(coder, z_N, code.index_N)
        return code.keep(acts_N > 0, acts_N)

    def select(self, coder: Coder, z_BF: Tensor) -> Tensor:
        return _magnitude(coder, z_BF.relu(), slice(None))

    def plain(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """π > 0 and exp(r) π + b_mag > 0 is the latter above max(0, b_mag)."""
        rest = dict(tensors)
        scale_F, b_mag = rest.pop("r_mag").exp(), rest.pop("b_mag")
        return rest | {
            "W_enc": rest["W_enc"] * scale_F[:, None],
            "b_enc": rest["b_enc"] * scale_F + b_mag,
            "threshold": b_mag.relu(),
        }

    def loss_parts(
        self, totals: Totals, sparsity_coefficient: float, dead: DeadLatents
    ) -> dict[str, Tensor]:
        parts = super().loss_parts(totals, sparsity_coefficient, dead)
        return parts | {"gates": totals.sums["gates"] / totals.num_rows}

    def further_messages(self, step: StepShape, *, has_dead: bool) -> Iterator[Message]:
        yield step.reconstruction()
        yield from super().further_messages(step, has_dead=has_dead)

    def num_further_sums(self, step: StepShape, *, has_dead: bool) -> int:
        return 1 + super().num_further_sums(step, has_dead=has_dead)


def _magnitude(coder: Coder, gate: Tensor, index: Tensor | slice) -> Tensor:
    """What latents give whose gate is open, of ReLU(π)."""
    r, b = (coder.get_parameter(name)[index] for name in ("r_mag", "b_mag"))
    return (r.exp() * gate + b).relu() * (gate > 0)
