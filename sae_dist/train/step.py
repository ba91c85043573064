"""One training step of one rung: it reads like the papers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sae_dist.coders import LossTerms, Price, training_forward
from sae_dist.kernels import host
from sae_dist.parallel import backward, gradient_norm
from sae_dist.train.optimizers import gradient_squares
from sae_dist.train.rows import SharedRows
from sae_dist.train.rung import Rung
from sae_dist.train.schedules import learning_rate, sparsity_coefficient


@dataclass(frozen=True, slots=True)
class StepResult:
    """What the forward pass gave and the norm of the gradient, both of the global batch, and the
    bytes that this process handed to collectives for them.
    """

    forward: LossTerms
    gradient_norm: Tensor
    bytes_sent: int


def training_step(
    rung: Rung, batch: SharedRows, step: int, num_steps: int, price: Price | None = None
) -> StepResult:
    """Take one step on this process' rows of the global batch.

    The host waits for no device. A step whose loss or gradient is not finite changes nothing but
    the rung's `progress`. If a search may have found more than there was room for, it and those
    after it change nothing, and are to be repeated in their order: see `repeat_step`.

    Args:
        rung: changed in place.
        batch: this process' rows at the rung's sites; the other rungs are given the same one.
        step, num_steps: for the schedules.
        price: of the reconstruction, beside its error: see `training_forward`.
    """
    mesh, coder, optim = rung.mesh, rung.coder, rung.config.optim
    sent_before = mesh.bytes_sent
    x_BD, y_BE = rung.rows(batch)
    num_tokens = len(x_BD) * mesh.data.size

    dead = rung.dead_latents(num_tokens)
    coder.gradients = rung.gradient_form(dead)
    forward = training_forward(
        coder.train(),
        x_BD,
        y_BE,
        sparsity_coefficient=sparsity_coefficient(rung.config.coder, optim, step),
        dead=dead,
        config=rung.config.coder.at_step(step),
        price=price,
    )
    coder.zero_grad()
    backward(forward.loss, coder, mesh)
    norm = gradient_norm(gradient_squares(coder), coder, mesh)

    # Both were summed over all processes, so that every one of them decides alike.
    skip = ~torch.isfinite(forward.loss.detach() + norm)
    if coder.has_rooms and not host.is_at_hand(skip):
        skip = rung.progress.add_or_hold(skip)
    else:
        rung.progress.add(skip)
    lr = learning_rate(optim, rung.config.coder.num_latents, step, num_steps)
    clip = torch.ones_like(norm) if optim.clip_norm is None else optim.clip_norm / norm
    rung.optimizer.step(rung.progress.num_updates, lr, clip.clamp_max(1.0), skip)
    rung.update_statistics(forward, num_tokens, skip)
    return StepResult(forward, norm, mesh.bytes_sent - sent_before)


def repeat_step(rung: Rung, batch: SharedRows, step: int, num_steps: int) -> StepResult:
    """Take the first of the steps that are held, once more, with a host that waits for shapes."""
    rung.coder.waits = True
    try:
        result = training_step(rung, batch, step, num_steps)
    finally:
        rung.coder.waits = False
    rung.progress.num_held -= 1
    return result
