"""How many operations a training step of a coder takes: pure arithmetic."""

from sae_dist.coders.config import CoderConfig, Form, layers_of

CANDIDATES = 1.6  # entries that the search keeps for one that is active (docs/architecture.md)


def step_flops(coder: CoderConfig, D: int, E: int, batch_tokens: int) -> tuple[float, float]:
    """Operations of dense products in a step, and of what touches only entries.

    The search multiplies every row with every latent: 2·B·F·D. Of N active entries, 1.6·N are
    computed again, and N decoded; three gradients cost as much each. A skip is one product, and
    one for its gradient. Beyond it: AuxK's dead latents, and a JumpReLU's first, dense steps.
    """
    product = sparse = 0.0
    for one, d, e in layers_of(coder, D, E):
        times, active = one.work
        product += 2.0 * times * batch_tokens * one.num_latents * d
        sparse += batch_tokens * active * (2 * CANDIDATES * d + 6 * e + 2 * d)
    if coder.form is Form.skip_transcoder:
        product += 4.0 * batch_tokens * D * E
    return product, sparse
