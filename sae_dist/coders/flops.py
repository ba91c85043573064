"""How many operations a training step of a coder takes: pure arithmetic."""

from sae_dist.coders.config import CoderConfig, Form, Kind

CANDIDATES = 1.6  # entries that the search keeps for one that is active (docs/architecture.md)
L0_UNKNOWN = 50.0  # Gemma Scope's at λ = 6e-4 (Lieberum et al. 2024, figure 5)


def active_a_row(coder: CoderConfig) -> float:
    """L0: k, or the target; with λ alone it is not known before, and 50 is assumed."""
    if coder.kind is not Kind.jumprelu:
        return float(coder.k)
    return L0_UNKNOWN if coder.target_l0 is None else coder.target_l0


def step_flops(coder: CoderConfig, D: int, E: int, batch_tokens: int) -> tuple[float, float]:
    """Operations of dense products in a step, and of what touches only entries.

    The search multiplies every row with every latent: 2·B·F·D. Of N active entries, 1.6·N are
    computed again, and N decoded; three gradients cost as much each. A skip is one product, and
    one for its gradient. Beyond it: AuxK's dead latents, and a JumpReLU's first, dense steps.
    """
    num, times = batch_tokens * active_a_row(coder), 1
    if coder.uses_multi_topk:
        num, times = 5 * num, 2
    product = 2.0 * times * batch_tokens * coder.num_latents * D
    if coder.form is Form.skip_transcoder:
        product += 4.0 * batch_tokens * D * E
    return product, num * (2 * CANDIDATES * D + 6 * E + 2 * D)
