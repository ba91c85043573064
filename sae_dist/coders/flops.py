"""How many operations a training step of a coder takes: pure arithmetic."""

from sae_dist.coders.config import CoderConfig, Form

CANDIDATES = 1.6  # entries that the search keeps for one that is active (docs/architecture.md)


def step_flops(coder: CoderConfig, D: int, E: int, batch_tokens: int) -> tuple[float, float]:
    """Operations of dense products in a step, and of what touches only entries.

    The search multiplies every row with every latent: 2·B·F·D. Of N active entries, 1.6·N are
    computed again, and N decoded; three gradients cost as much each. A skip is one product, and
    one for its gradient. Beyond it: AuxK's dead latents, and a JumpReLU's first, dense steps.
    """
    times, active = coder.work
    num = batch_tokens * active
    product = 2.0 * times * batch_tokens * coder.num_latents * D
    if coder.form is Form.skip_transcoder:
        product += 4.0 * batch_tokens * D * E
    return product, num * (2 * CANDIDATES * D + 6 * E + 2 * D)
