"""One training step of one rung: it reads like the papers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sae_dist.coders import LossTerms, training_forward
from sae_dist.common.errors import UserError
from sae_dist.common.log import log_info
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


class NonFiniteError(UserError):
    """Too many steps in a row gave a loss or gradient that is not finite."""


_MAX_SKIPPED_IN_A_ROW = 10


def training_step(rung: Rung, batch: SharedRows, step: int, num_steps: int) -> StepResult:
    """Take one step on this process' rows of the global batch.

    Args:
        rung: changed in place, unless loss or gradient are not finite: then the step is skipped.
        batch: this process' rows at the rung's sites; the other rungs are given the same one.
        step, num_steps: for the schedules.

    Raises:
        NonFiniteError: this is the tenth skipped step in a row.
    """
    mesh, coder, optim = rung.mesh, rung.coder, rung.config.optim
    sent_before = mesh.bytes_sent
    x_BD, y_BE = rung.rows(batch)

    forward = training_forward(
        coder.train(),
        x_BD,
        y_BE,
        sparsity_coefficient=sparsity_coefficient(rung.config.coder, optim, step),
        dead_F=rung.dead(),
        num_dead=int(rung.count_dead()) if rung.config.coder.num_aux else 0,
    )
    coder.zero_grad()
    backward(forward.loss, coder, mesh)
    norm = gradient_norm(gradient_squares(coder), coder, mesh)

    # Both were summed over all processes, so that every one of them decides alike.
    if not bool(torch.isfinite(forward.loss.detach() + norm)):
        _skip(rung, step)
        return StepResult(forward, norm, mesh.bytes_sent - sent_before)
    lr = learning_rate(optim, rung.config.coder.num_latents, step, num_steps)
    clip = torch.ones_like(norm) if optim.clip_norm is None else optim.clip_norm / norm
    rung.optimizer.step(rung.num_updates + 1, lr, clip.clamp_max(1.0))
    rung.skipped_in_a_row = 0
    rung.update_statistics(forward.fired_F, forward.least, num_tokens=len(x_BD) * mesh.data.size)
    return StepResult(forward, norm, mesh.bytes_sent - sent_before)


def _skip(rung: Rung, step: int) -> None:
    rung.num_skipped += 1
    rung.skipped_in_a_row += 1
    if rung.skipped_in_a_row == 1:
        log_info(
            f"rung {rung.name}: loss or gradient is not finite at step {step}, which is skipped"
        )
    if rung.skipped_in_a_row >= _MAX_SKIPPED_IN_A_ROW:
        raise NonFiniteError(
            f"rung {rung.name}: loss or gradient was not finite {_MAX_SKIPPED_IN_A_ROW} steps in a "
            "row; lower optim.lr, or look for non-finite activations with sae-dist verify"
        )
