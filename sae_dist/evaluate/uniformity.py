"""How evenly importance is spread over the latents that are active."""

from typing import Any

import torch
from torch import Tensor

from sae_dist.coders import Coder
from sae_dist.evaluate.lm_loss import Spliced
from sae_dist.kernels import SparsePattern
from sae_dist.kernels.dispatch import sddmm
from sae_dist.lm import LM, splice
from sae_dist.parallel import Mesh


class Uniformity:
    """Uniformity of active latent importance r_L0 (Lieberum et al. 2024, App. C.3, eqs. 12-14).

    y = f ⊙ (W_dec ∇ L) with L the logit of the correct next token less the mean logit and ∇ its
    gradient at the coder's target, clean activations in place; p = |y| / Σ|y|;
    r_L0 = e^{S(p)} / ‖y‖₀, between 1/‖y‖₀ and 1; the mean over tokens. Tokens with ‖y‖₀ = 0 are
    left out and counted.

    A token's gradient takes a backward pass of its own, so some positions stand for all: in every
    sequence `num_positions` of those whose token and next token are not special, evenly spaced.
    """

    def __init__(
        self,
        lm: LM,
        coders: dict[str, Spliced],
        num_positions: int,
        mesh: Mesh,
        device: torch.device,
    ) -> None:
        self._lm, self._coders, self._mesh, self._device = lm, coders, mesh, device
        self._num_positions = num_positions
        zeros = torch.zeros(3, dtype=torch.float64, device=device)  # Σ r, tokens, left out
        self._sums = {name: zeros.clone() for name in coders}

    def update(self, input_ids_NS: Tensor, trainable_NS: Tensor) -> None:
        """Add a batch of sequences."""
        ids_NS, trainable_NS = input_ids_NS.to(self._device), trainable_NS.to(self._device)
        chosen_NP = _evenly(trainable_NS[:, :-1] & trainable_NS[:, 1:], self._num_positions)
        for spliced in {(s.read.name, s.write.name): s for s in self._coders.values()}.values():
            x_ND, grad_NE = self._gradients(spliced, ids_NS, chosen_NP)
            for name, other in self._coders.items():
                if (other.read, other.write) == (spliced.read, spliced.write):
                    self._sums[name] += _uniformities(other.coder, x_ND, grad_NE, self._mesh)

    def _gradients(
        self, spliced: Spliced, ids_NS: Tensor, chosen_NP: Tensor
    ) -> tuple[Tensor, Tensor]:
        """At the chosen tokens the coder's input [M, D], and ∇ [M, E]: a pass backward for each of
        a sequence's positions, of all sequences at once.
        """
        seen: list[Tensor] = []

        def watch(x_NSD: Tensor, y_NSE: Tensor) -> Tensor:
            seen[:] = [x_NSD.detach(), y_NSE.detach().requires_grad_()]
            return seen[1]

        everywhere = torch.zeros_like(ids_NS, dtype=torch.bool)
        with (
            torch.enable_grad(),
            splice(self._lm.model, spliced.read, spliced.write, watch, everywhere),
        ):
            logits_NSV = self._lm.model(input_ids=ids_NS).logits
        x_NSD, y_NSE = seen
        inputs, gradients = [], []
        for chosen_N in chosen_NP.T:
            row_M = (chosen_N >= 0).nonzero().flatten()
            at = row_M, chosen_N[row_M]
            if not len(row_M):
                continue
            logits_MV = logits_NSV[at].float()
            next_M = ids_NS[row_M, at[1] + 1].long()
            goal_M = logits_MV.gather(1, next_M[:, None])[:, 0] - logits_MV.mean(1)
            (grad_NSE,) = torch.autograd.grad(goal_M.sum(), y_NSE, retain_graph=True)
            inputs.append(x_NSD[at])
            gradients.append(grad_NSE[at])
        if not inputs:
            return x_NSD[:0, 0], y_NSE.detach()[:0, 0]
        return torch.cat(inputs), torch.cat(gradients)

    def result(self, mesh: Mesh) -> dict[str, dict[str, Any]]:
        """Each coder's `uniformity`: r_L0, the tokens it is the mean of, and those left out."""
        figures = {}
        for name, sums in self._sums.items():
            total, tokens, left_out = mesh.data.all_reduce(sums).tolist()
            r_l0 = total / tokens if tokens else None
            figures[name] = {
                "uniformity": {"r_l0": r_l0, "tokens": int(tokens), "left_out": int(left_out)}
            }
        return figures


@torch.no_grad()
def _uniformities(coder: Coder, x_MD: Tensor, grad_ME: Tensor, mesh: Mesh) -> Tensor:
    """(Σ r_L0, tokens, tokens without an important latent)."""
    dtype = coder.W_enc.dtype
    code, acts_N = coder.encode_sparse(x_MD.to(dtype))
    y_N = acts_N * sddmm(grad_ME.to(dtype), coder.W_dec.detach(), code)
    sums = mesh.latent.all_reduce(importance_sums(y_N, code))
    r_M, counts_M = r_l0(sums)
    return torch.stack([r_M.sum(), (counts_M > 0).sum(), (counts_M == 0).sum()])


def importance_sums(y_N: Tensor, code: SparsePattern) -> Tensor:
    """Of each token Σ|y|, Σ|y| ln|y| and ‖y‖₀ over the latents of a slice [M, 3] in float64."""
    size_N = y_N.double().abs()
    terms_N3 = torch.stack([size_N, torch.xlogy(size_N, size_N), (size_N > 0).double()], 1)
    sums_M3 = terms_N3.new_zeros(len(code.offsets_B) - 1, 3)
    return sums_M3.index_add_(0, code.rows_N, terms_N3)


def r_l0(sums_M3: Tensor) -> tuple[Tensor, Tensor]:
    """e^{S(p)} / ‖y‖₀ (0 where ‖y‖₀ = 0), and ‖y‖₀; S(p) = ln Σ|y| - Σ|y| ln|y| / Σ|y|."""
    total_M, weighted_M, count_M = sums_M3.unbind(1)
    entropy_M = total_M.log() - weighted_M / total_M
    return torch.where(count_M > 0, entropy_M.exp() / count_M, 0.0), count_M


def _evenly(usable_NS: Tensor, num: int) -> Tensor:
    """Of each row `num` usable positions, evenly spaced [N, num]; -1 where it has fewer."""
    chosen_NP = torch.full((len(usable_NS), num), -1, device=usable_NS.device)
    for row, usable_S in enumerate(usable_NS):
        positions = usable_S.nonzero().flatten()
        taken = min(num, len(positions))
        places = torch.arange(taken, device=positions.device) * len(positions) // max(taken, 1)
        chosen_NP[row, :taken] = positions[places]
    return chosen_NP
