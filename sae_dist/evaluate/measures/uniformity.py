"""How evenly importance is spread over the latents that are active."""

import torch
from torch import Tensor

from sae_dist.common.declare import Axis, Figure, Mark, Plot
from sae_dist.evaluate.lm_batch import LMBatch
from sae_dist.evaluate.measure import Figures, Measure, Subject
from sae_dist.evaluate.measures.fidelity import L0_AXIS
from sae_dist.evaluate.registry import Needs
from sae_dist.evaluate.topics import GEMMA_SCOPE, LATENTS
from sae_dist.kernels import SparsePattern
from sae_dist.kernels.dispatch import sddmm


class Uniformity(Measure):
    """Uniformity of active latent importance r_L0.

    y = f ⊙ (W_dec ∇ L) with L the logit of the correct next token less the mean logit and ∇ its
    gradient at the coder's target, clean activations in place; p = |y| / Σ|y|;
    r_L0 = e^{S(p)} / ‖y‖₀, between 1/‖y‖₀ and 1; the mean over tokens. Tokens with ‖y‖₀ = 0 are
    left out and counted. In every sequence `uniformity_positions` tokens stand for all.
    """

    name = "uniformity"
    needs = Needs.GRADIENTS
    settings = ("uniformity_positions",)
    sequences = "uniformity_sequences"
    topic = LATENTS
    group = "Latents"
    figures = (
        Figure(
            "uniformity/r_l0",
            "r_L0",
            "uniformity of active latent importance, exp(S(p)) / ‖y‖₀ with y = f ⊙ "
            "(W_dec ∇ₓL), p = |y| / Σ|y|, L the mean-centred logit of the next token and ∇ at the "
            "clean target: 1 where all active latents matter alike",
            source=f"{GEMMA_SCOPE}, App. C.3, eqs. 12–14",
        ),
        Figure(
            "uniformity/tokens",
            "",
            "that it is the mean of, `uniformity_positions` of each sequence; those "
            "with y = 0 are not among them, but in `left_out`",
        ),
    )
    plots = (
        Plot(
            "uniformity",
            Mark.POINTS,
            "Uniformity of active latent importance",
            "r_L0 = exp(S(p)) / ‖y‖₀ with y = f ⊙ (W_dec ∇ₓL), L the mean-centred logit of "
            "the next token: 1 where all active latents matter alike, 1 / L0 where one alone does.",
            source=f"{GEMMA_SCOPE}, fig. 16 and eqs. 12–14",
            x=L0_AXIS,
            y=Axis("r_L0", "uniformity/r_l0"),
            panel="place",
            join=True,
        ),
    )

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self._sums = self.zeros(3)  # Σ r, tokens, left out

    @torch.no_grad()
    def update(self, seen: LMBatch) -> None:
        """Add a batch of sequences."""
        subject, coder = self.subject, self.subject.coder
        num_positions, dtype = subject.config.uniformity_positions, coder.W_enc.dtype
        x_MD, grad_ME = seen.gradients(subject.site, subject.target, num_positions)
        code, acts_N = coder.encode_sparse(x_MD.to(dtype))
        y_N = acts_N * sddmm(grad_ME.to(dtype), coder.W_dec.detach(), code)
        r_M, count_M = r_l0(self.mesh.latent.all_reduce(importance_sums(y_N, code)))
        self._sums += torch.stack([r_M.sum(), (count_M > 0).sum(), (count_M == 0).sum()])

    def conclude(self) -> Figures:
        """`uniformity`: r_L0, the tokens it is the mean of, and those left out."""
        total, tokens, left_out = self._sums.tolist()
        mean = total / tokens if tokens else None
        return {"uniformity": {"r_l0": mean, "tokens": int(tokens), "left_out": int(left_out)}}


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
