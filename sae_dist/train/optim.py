"""Adam, and what keeps a decoder's rows at unit norm around it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sae_dist.coders import Coder
from sae_dist.common.errors import UserError

_BLOCK_ROWS = 1024  # of the decoder at once: temporaries stay in the cache


@dataclass(kw_only=True, slots=True)
class OptimConfig:
    """Adam and its schedules; the defaults are Gemma Scope's (Lieberum et al. 2024, section 3.2).

    `scale_lr_by_width` divides `lr` by √(F / 2¹⁴). The rate rises along a cosine from
    `warmup_start · lr` over `warmup_steps`, stays, and falls linearly to 0 over the last
    `decay_share` of the run. λ rises linearly from 0 over `sparsity_warmup_steps`.
    `clip_norm` bounds the norm of the whole coder's gradient.
    """

    lr: float = 7e-5
    scale_lr_by_width: bool = False
    beta1: float = 0.0
    beta2: float = 0.999
    eps: float = 1e-8
    warmup_steps: int = 1000
    warmup_start: float = 0.1
    decay_share: float = 0.0
    sparsity_warmup_steps: int = 10_000
    clip_norm: float | None = None


def make_adam(coder: Coder, config: OptimConfig) -> torch.optim.Adam:
    """Adam over a coder's parameters, with its state already there, so that it can be loaded.

    Raises:
        UserError: a setting outside of its range.
    """
    _check(config)
    adam = torch.optim.Adam(
        coder.parameters(),
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=True,
    )
    for parameter in coder.parameters():
        adam.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return adam


def _check(config: OptimConfig) -> None:
    ranges = {
        "lr": (0.0, float("inf")),
        "beta1": (0.0, 1.0),
        "beta2": (0.0, 1.0),
        "eps": (0.0, float("inf")),
        "warmup_steps": (0, float("inf")),
        "warmup_start": (0.0, 1.0),
        "decay_share": (0.0, 1.0),
        "sparsity_warmup_steps": (0, float("inf")),
    }
    for name, (least, most) in ranges.items():
        value = getattr(config, name)
        if not least <= value <= most or (name.startswith("beta") and value == most):
            raise UserError(f"optim.{name}={value}; expected {least} to {most}")


@torch.no_grad()
def project_out_rows(W_FE: nn.Parameter) -> None:
    """Remove from each row's gradient its component along the (unit-norm) row, in place."""
    grad_FE = W_FE.grad
    assert grad_FE is not None
    for grad_fE, W_fE in zip(grad_FE.split(_BLOCK_ROWS), W_FE.split(_BLOCK_ROWS), strict=True):
        along_f1 = torch.linalg.vecdot(grad_fE, W_fE)[:, None]
        grad_fE.addcmul_(along_f1, W_fE, value=-1)


@torch.no_grad()
def normalise_rows(W_FE: Tensor) -> None:
    """Scale each row to unit norm, in place; a zero row stays."""
    W_FE /= torch.linalg.vector_norm(W_FE, dim=1, keepdim=True).clamp_min(
        torch.finfo(W_FE.dtype).tiny
    )


@torch.no_grad()
def clip_gradient(coder: Coder, norm: Tensor, max_norm: float) -> None:
    """Scale the gradient so that its norm, which is `norm`, is at most `max_norm`."""
    scale = (max_norm / norm).clamp_max(1.0)
    for parameter in coder.parameters():
        if parameter.grad is not None:
            parameter.grad *= scale
