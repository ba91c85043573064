"""What one step of Adam on a matrix's rows reads and writes."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamRows:
    """A matrix and what Adam remembers of it, float32 (or float64 on CPUs), contiguous.

    Attributes:
        W_FD: the weights.
        exp_avg_sq_FD: the second moment.
        exp_avg_FD: the first moment; None with beta1 = 0, which needs none.
        last_step_F: with beta1 = 0, the last step in which each row was visited, or 0, int64. A row
            whose gradient is zero keeps its weights, and the decay of its second moment is made up
            for when it is visited again: exactly what visiting all rows gives. None if every row
            is visited at every step.
        norm_F: ‖w‖ of the rows to keep up, or None.
        bf16_FD, error_F: ŵ, a copy in bfloat16 to keep up, and ‖w - ŵ‖, or None.
    """

    W_FD: Tensor
    exp_avg_sq_FD: Tensor
    exp_avg_FD: Tensor | None = None
    last_step_F: Tensor | None = None
    norm_F: Tensor | None = None
    bf16_FD: Tensor | None = None
    error_F: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamStep:
    """One step, as torch.optim.Adam has it; its tensors are on the device of what is updated.

    Attributes:
        number: from 1 (0-dim, int64).
        skip: whether nothing is to be changed (0-dim, bool).
        lr: the learning rate; 0-dim and float32 if it is a tensor.
        grad_scale: what the gradient is multiplied by first (0-dim).
        unit_norm: whether rows are kept at unit norm: the gradient's component along a row is
            removed before, and the row is scaled after; a zero row stays.
    """

    number: Tensor
    skip: Tensor
    lr: float | Tensor
    beta1: float
    beta2: float
    eps: float
    grad_scale: Tensor
    unit_norm: bool
