"""What every kernel must compute, in plain torch: clear first, fast second."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from sae_dist.kernels.adam import AdamRows, AdamStep
from sae_dist.kernels.pattern import SparsePattern

GROUP = 32  # latents that share a maximum
_DIGIT_BITS = 16
_INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def in_window(z_BF: Tensor, threshold_F: Tensor, bandwidth: float) -> Tensor:
    """The rectangle kernel K((z-θ)/ε) = 1 for -½ < (z-θ)/ε < ½: both ends are open."""
    return ((z_BF - threshold_F).abs() < bandwidth / 2).to(z_BF.dtype)


class _JumpReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, z_BF: Tensor, threshold_F: Tensor, bandwidth: float, reaches_z: bool
    ) -> Tensor:
        ctx.save_for_backward(z_BF, threshold_F)
        ctx.bandwidth, ctx.reaches_z = bandwidth, reaches_z
        return torch.where(z_BF > threshold_F, z_BF, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BF: Tensor) -> tuple[Tensor, Tensor, None, None]:
        z_BF, threshold_F = ctx.saved_tensors
        window_BF = in_window(z_BF, threshold_F, ctx.bandwidth)
        grad_z_BF = torch.where(z_BF > threshold_F, grad_BF, 0.0)
        grad_threshold_BF = -(threshold_F / ctx.bandwidth) * window_BF * grad_BF
        if ctx.reaches_z:
            grad_z_BF = grad_z_BF - grad_threshold_BF
        return grad_z_BF, grad_threshold_BF.sum_to_size(threshold_F.shape), None, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, z_BF: Tensor, threshold_F: Tensor, bandwidth: float, reaches_z: bool
    ) -> Tensor:
        ctx.save_for_backward(z_BF, threshold_F)
        ctx.bandwidth, ctx.reaches_z = bandwidth, reaches_z
        return (z_BF > threshold_F).to(z_BF.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BF: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        z_BF, threshold_F = ctx.saved_tensors
        window_BF = in_window(z_BF, threshold_F, ctx.bandwidth)
        grad_threshold_BF = -(1.0 / ctx.bandwidth) * window_BF * grad_BF
        grad_z_BF = -grad_threshold_BF if ctx.reaches_z else None
        return grad_z_BF, grad_threshold_BF.sum_to_size(threshold_F.shape), None, None


def jumprelu(
    z_BF: Tensor, threshold_F: Tensor, bandwidth: float, *, reaches_z: bool = False
) -> Tensor:
    """`z · H(z - θ)` with straight-through gradients (Rajamanoharan et al. 2024b, eqs. 3 and 11).

    ∂/∂z = 1[z > θ];  ∂/∂θ = -(θ/ε) K((z-θ)/ε), K the rectangle on the open interval (-½, ½).
    z may also be a list of entries [N], and θ their thresholds [N]. With `reaches_z` the kernel's
    gradient reaches z, too: ∂/∂z = 1[z > θ] + (θ/ε) K((z-θ)/ε) (Anthropic, January 2025).
    """
    return _JumpReLU.apply(z_BF, threshold_F, bandwidth, reaches_z)


def step(z_BF: Tensor, threshold_F: Tensor, bandwidth: float, *, reaches_z: bool = False) -> Tensor:
    """`H(z - θ)` with straight-through gradients (Rajamanoharan et al. 2024b, eq. 12).

    ∂/∂z = 0, or with `reaches_z` (1/ε) K((z-θ)/ε);  ∂/∂θ = -(1/ε) K((z-θ)/ε). It takes the
    pre-activations: after JumpReLU, the lower half of the kernel's window would be lost.
    """
    return _Step.apply(z_BF, threshold_F, bandwidth, reaches_z)


def kth_largest(
    values: Tensor, k: int, sum_counts: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """The k-th largest of the positive values, which may be spread over processes: exactly.

    A radix select: positive floats are ordered as their bits are, so a histogram, which
    `sum_counts` adds up over the processes, settles 16 bits a round. Two rounds for float32,
    whatever k is and however the values are spread; no host waits for a device.

    Returns:
        the value (0 if fewer than k are positive), how many are greater, how many equal (0-dim).
    """
    bits, integer = values.flatten(), _INTEGER[values.element_size()]
    is_open, bits = bits > 0, bits.view(integer).long()
    prefix = num_greater = num_equal = torch.zeros((), dtype=torch.int64, device=values.device)
    is_enough = None
    for shift in range(8 * values.element_size() - _DIGIT_BITS, -1, -_DIGIT_BITS):
        digits = (bits >> shift) & (2**_DIGIT_BITS - 1)
        counts = digits.new_zeros(2**_DIGIT_BITS).scatter_add_(0, digits, is_open.long())
        counts = sum_counts(counts)
        from_top = counts.flip(0).cumsum(0)
        is_enough = from_top[-1] >= k if is_enough is None else is_enough
        index = torch.searchsorted(from_top, k - num_greater).clamp_max(len(counts) - 1)
        digit = len(counts) - 1 - index
        num_equal = counts.gather(0, digit[None])[0]
        num_greater = num_greater + from_top.gather(0, index[None])[0] - num_equal
        prefix = (prefix << _DIGIT_BITS) | digit
        is_open = is_open & (digits == digit)
    value = prefix.to(integer).view(values.dtype)
    assert is_enough is not None
    return value * is_enough, num_greater + num_equal * ~is_enough, num_equal * is_enough


def product(x_bD: Tensor, W_fD: Tensor, b_f: Tensor) -> tuple[Tensor, Tensor]:
    """z = x Wᵀ + b in bfloat16 [b, f], and in float32 each group's maximum [b, ⌈f / 32⌉]."""
    z_bf = (x_bD.float() @ W_fD.float().T + b_f).bfloat16()
    full_bf = pad(z_bf.float(), (0, -z_bf.shape[1] % GROUP), value=-torch.inf)
    return z_bf, full_bf.unflatten(1, (-1, GROUP)).amax(2)


def entries(
    z_bf: Tensor, maxima_bg: Tensor, floor_b: Tensor, error_bound_bg: Tensor
) -> tuple[Tensor, Tensor]:
    """All (row, latent) with z + bound[row, group] >= floor[row], by row, then by latent [N]."""
    error_bound_bf = error_bound_bg.repeat_interleave(GROUP, 1)[:, : z_bf.shape[1]]
    rows_N, latents_N = (z_bf.float() + error_bound_bf >= floor_b[:, None]).nonzero(as_tuple=True)
    return rows_N, latents_N


def entries_in(
    latents_N: Tensor,
    z_bf: Tensor,
    maxima_bg: Tensor,
    floor_b: Tensor,
    error_bound_bg: Tensor,
    num_before: Tensor,
) -> Tensor:
    """Write the latents of `entries` behind the first `num_before` places, as far as there are any.

    Returns:
        where each row's entries begin, and the last one's end, int64 [b + 1].
    """
    rows_n, latents_n = entries(z_bf, maxima_bg, floor_b, error_bound_bg)
    places = latents_N[int(num_before) :]
    places[: len(latents_n)] = latents_n[: len(places)]
    counts_b = torch.bincount(rows_n, minlength=len(z_bf))
    return num_before + pad(counts_b.cumsum(0), (1, 0))


def topk(x_bD: Tensor, W_FD: Tensor, b_F: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest positive entries of each row of z = x Wᵀ + b, the first latents among equals.

    Returns:
        values and latents [b, k]: latents rising, then -∞ and F where there are fewer.
    """
    z_bF = x_bD @ W_FD.T + b_F
    order_bF = z_bF.nan_to_num(-torch.inf, torch.inf).argsort(dim=1, descending=True, stable=True)
    kept_bF = torch.zeros_like(z_bF, dtype=torch.bool).scatter_(1, order_bF[:, :k], True)
    kept_bF &= z_bF > 0
    latents_bF = torch.arange(len(W_FD), device=z_bF.device).where(kept_bF, len(W_FD))
    latents_bk = pad(latents_bF, (0, k), value=len(W_FD)).sort(1).values[:, :k]
    return pad(z_bF, (0, 1), value=-torch.inf).gather(1, latents_bk), latents_bk


def _dense(values_N: Tensor, code: SparsePattern) -> Tensor:
    dense_BF = values_N.new_zeros(len(code.offsets_B) - 1, code.num_latents)
    is_entry_N = code.latents_N < code.num_latents
    dense_BF[code.rows_N[is_entry_N], code.latents_N[is_entry_N]] = values_N[is_entry_N]
    return dense_BF


def spmm(values_N: Tensor, W_FD: Tensor, code: SparsePattern) -> Tensor:
    """For each row the sum of its entries' value · W_f [B, D]."""
    return _dense(values_N, code) @ W_FD.to(values_N.dtype)


def sddmm(u_BD: Tensor, W_FD: Tensor, code: SparsePattern) -> Tensor:
    """For each entry (b, f) the product u_b · W_f [N]; 0 where there is none."""
    return pad(u_BD @ W_FD.to(u_BD.dtype).T, (0, 1))[code.rows_N, code.latents_N]


def spmm_t(
    values_N: Tensor, u_BD: Tensor, code: SparsePattern, *, present_only: bool = False
) -> Tensor:
    """For each latent the sum of its entries' value · u_b [F, D], or of those with any [R, D]."""
    sums_FD = _dense(values_N, code).T @ u_BD.to(values_N.dtype)
    return pad(sums_FD, (0, 0, 0, 1))[code.present_R] if present_only else sums_FD


def weighted_sum(values_F: Tensor, W_FD: Tensor, code: SparsePattern) -> Tensor:
    """Σ value · W_f over the latents that have entries [D]."""
    return values_F.where(code.count_by_latent() > 0, 0.0) @ W_FD


def gradient_square(grad_RD: Tensor, rows_R: Tensor | None, W_FD: Tensor | None) -> Tensor:
    """‖g‖² of some rows' gradient, with their weights (unit rows) without what lies along them.

    Args:
        rows_R: which rows, int64; None for all. Those of number F are none, with gradient 0.
    """
    square_R = grad_RD.square().sum(1)
    if W_FD is not None:
        w_RD = W_FD if rows_R is None else W_FD[rows_R.clamp_max(len(W_FD) - 1)]
        square_R -= torch.linalg.vecdot(grad_RD, w_RD).square()
    return square_R.sum().clamp_min(0.0)


def update_rows(rows: AdamRows, grad_RD: Tensor, rows_R: Tensor | None, adam: AdamStep) -> None:
    """One step of Adam (Kingma & Ba 2015, as in `torch.optim.Adam`) on some rows, in place.

    Args:
        rows: all rows and their state.
        grad_RD: the gradient of some rows; it may be overwritten.
        rows_R: which rows, each once, int64; None for all. Those of number F are none. With a first
            moment every row is visited, of gradient 0 where there is no other.
        adam: the step's settings.
    """
    if adam.skip:
        return
    if rows_R is not None:
        is_row_R = rows_R < len(rows.W_FD)
        grad_RD, rows_R = grad_RD[is_row_R], rows_R[is_row_R]
        if rows.exp_avg_FD is not None:
            grad_RD = torch.zeros_like(rows.W_FD).index_copy(0, rows_R, grad_RD)
            rows_R = None
    W_FD, step, beta1, beta2 = rows.W_FD, int(adam.number), adam.beta1, adam.beta2
    at_R = torch.arange(len(W_FD), device=W_FD.device) if rows_R is None else rows_R
    w_RD, v_RD, g_RD = W_FD[at_R], rows.exp_avg_sq_FD[at_R], grad_RD * adam.grad_scale
    if adam.unit_norm:
        g_RD = g_RD - torch.linalg.vecdot(g_RD, w_RD)[:, None] * w_RD
    if rows.last_step_F is not None:
        v_RD *= (beta2 ** (step - 1 - rows.last_step_F[at_R]).to(v_RD.dtype))[:, None]
        rows.last_step_F[at_R] = step
    m_RD = g_RD
    if rows.exp_avg_FD is not None:
        m_RD = rows.exp_avg_FD[at_R] = rows.exp_avg_FD[at_R].lerp(g_RD, 1 - beta1)
    v_RD = rows.exp_avg_sq_FD[at_R] = v_RD * beta2 + g_RD**2 * (1 - beta2)
    denominator_RD = (v_RD / (1 - beta2**step)).sqrt() + adam.eps
    w_RD -= adam.lr / (1 - beta1**step) * m_RD / denominator_RD
    if adam.unit_norm:
        w_RD /= torch.linalg.vector_norm(w_RD, dim=1, keepdim=True).clamp_min(
            torch.finfo(w_RD.dtype).tiny
        )
    W_FD[at_R] = w_RD
    if rows.norm_F is not None:
        rows.norm_F[at_R] = torch.linalg.vector_norm(w_RD, dim=1)
    if rows.bf16_FD is not None and rows.error_F is not None:
        rows.bf16_FD[at_R] = w_RD.bfloat16()
        rows.error_F[at_R] = torch.linalg.vector_norm(w_RD - rows.bf16_FD[at_R], dim=1)
