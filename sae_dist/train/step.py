"""One training step of one rung: it reads like the papers."""

from dataclasses import dataclass, replace

from torch import Tensor

from sae_dist.coders import CoderConfig, LossTerms, Price, training_forward
from sae_dist.kernels import host
from sae_dist.parallel import backward, gradient_norm
from sae_dist.train.optimizers import gradient_norms, project_gradient
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
    """Take one step on this process' rows of the global batch: `take_step` at a point in a run.

    Args:
        step, num_steps: for the schedules.
    """
    coder, optim = rung.config.coder, rung.config.optim
    lr = learning_rate(optim, coder.num_latents, step, num_steps)
    at = coder.at_step(step), sparsity_coefficient(coder, optim, step)
    return take_step(rung, batch, lr, *at, price)


def take_step(
    rung: Rung,
    batch: SharedRows,
    lr: float | Tensor,
    config: CoderConfig,
    sparsity_coefficient: float,
    price: Price | None = None,
) -> StepResult:
    """Take one step on this process' rows of the global batch.

    The host waits for no device. A step whose loss or gradient is not finite changes nothing but
    the rung's `progress`. If a search may have found more than there was room for, it and those
    after it change nothing, and are to be repeated in their order: see `repeat_step`.

    Args:
        rung: changed in place.
        batch: this process' rows at the rung's sites; the other rungs are given the same one.
        lr: the learning rate; a tensor (0-dim, float32) where the step is recorded and replayed.
        config: what the coder is taken for; see `CoderConfig.at_step`.
        sparsity_coefficient: λ.
        price: of the reconstruction, beside its error; see `training_forward`.
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
        sparsity_coefficient=sparsity_coefficient,
        dead=dead,
        config=config,
        price=price,
    )
    coder.zero_grad()
    backward(forward.loss, coder, mesh)
    project_gradient(coder)
    norm = gradient_norm(gradient_norms(coder), coder, mesh)

    # Both were summed over all processes, so that every one of them decides alike.
    may_hold = coder.has_rooms and not host.is_at_hand(norm)
    skip, clip = rung.progress.decide(forward.loss.detach(), norm, optim.clip_norm, may_hold)
    rung.optimizer.step(rung.progress.num_updates, lr, clip, skip)
    rung.update_statistics(forward, num_tokens, skip)
    forward = replace(forward, loss=forward.loss.detach())  # lets go of what led to it
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
