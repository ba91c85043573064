"""What every kernel must compute, in plain torch: clear first, fast second."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from sae_dist.kernels.adam import AdamRows, AdamStep

if TYPE_CHECKING:
    from sae_dist.kernels.pattern import LatentRuns, SparsePattern

GROUP = 32  # latents that share a maximum
ROUNDING = 1e-12
"""Of Σ‖y‖²: what float32 may leave of a variance of 0."""
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


def round_rows(W_FD: Tensor, bf16_FD: Tensor | None, error_F: Tensor, norm_F: Tensor) -> None:
    """Write ‖w‖ of each row, and where ŵ is kept ŵ and ‖w - ŵ‖."""
    norm_F.copy_(torch.linalg.vector_norm(W_FD, dim=1))
    if bf16_FD is not None:
        bf16_FD.copy_(W_FD)
        error_F.copy_(torch.linalg.vector_norm(W_FD - bf16_FD, dim=1))


def group_errors(
    error_f: Tensor, norm_f: Tensor, b_f: Tensor, own_b_f: Tensor, dtype: torch.dtype, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The largest ‖w - ŵ‖, ‖w‖ and |b - b̂| of each group of latents [⌈f / 32⌉].

    With what sums of `width` products, and that of z, can lose in the dtype of what is given.

    Args:
        b_f, own_b_f: the bias of the search, and the one that z has.
        dtype: of the search.
    """
    eps = torch.finfo(norm_f.dtype).eps
    b_error_f = (b_f - b_f.to(dtype)).abs() + eps * (b_f.abs() + own_b_f.abs())
    of_latents = torch.stack([error_f + 2 * width * eps * norm_f, norm_f, b_error_f])
    missing = 0, -of_latents.shape[1] % GROUP
    W_error_g, W_norm_g, b_error_g = (
        pad(of_latents, missing, value=-torch.inf).unflatten(1, (-1, GROUP)).amax(2)
    )
    return W_error_g, W_norm_g, b_error_g


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


def latent_runs(latents_N: Tensor, num_latents: int) -> LatentRuns:
    """The places of a pattern latent by latent; those of latent F are no entries.

    Of rows that latents have there are min(N, F): with N ≥ F places each latent has its own, with
    fewer the one with the number of its first place in this order.
    """
    from sae_dist.kernels.pattern import LatentRuns

    keys_N, order_N = latents_N.int().sort(stable=True)
    counts_F = torch.bincount(latents_N, minlength=num_latents + 1)[:num_latents]
    offsets_F = pad(counts_F.cumsum(0), (1, 0))
    latent_F, is_present_F = torch.arange(num_latents, device=keys_N.device), counts_F > 0
    place_F = latent_F if len(keys_N) >= num_latents else offsets_F[:-1]
    rows_R = latent_F.new_full((min(len(keys_N), num_latents),), num_latents)
    rows_R[place_F[is_present_F]] = latent_F[is_present_F]
    place_F = place_F.where(is_present_F, -1).int()
    return LatentRuns(order_N, keys_N, offsets_F, counts_F, rows_R, place_F)


def row_gradient(
    values_N: Tensor, u_BD: Tensor, code: SparsePattern, unit_FD: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """`spmm_t` of the rows of `code.present_R`, with what else a gradient is asked for.

    Args:
        unit_FD: rows of unit norm, of which norms leave out what lies along them.

    Returns:
        the sums [R, D], of which those of number F need not be written; their norms [R], 0 of
        these; and Σ value of each latent [F].
    """
    sums_RD = spmm_t(values_N, u_BD, code, present_only=True)
    left_RD = sums_RD
    if unit_FD is not None:
        unit_RD = pad(unit_FD, (0, 0, 0, 1))[code.present_R]
        left_RD = sums_RD - torch.linalg.vecdot(sums_RD, unit_RD)[:, None] * unit_RD
    return sums_RD, torch.linalg.vector_norm(left_RD, dim=1), _dense(values_N, code).sum(0)


def centre_gradient(grad_b_F: Tensor, W_FD: Tensor, code: SparsePattern) -> Tensor:
    """-Σ value · W_f over the latents that have entries [D]: the gradient of c in W (x - c) + b."""
    return -(grad_b_F.where(code.count_by_latent() > 0, 0.0) @ W_FD)


def moments(y_BE: Tensor) -> Tensor:
    """Σ y and Σ‖y‖² over the rows [E + 1] in float64, to be added up over the parts of a batch."""
    y_BE = y_BE.double()
    return torch.cat([y_BE.sum(0), y_BE.square().sum()[None]])


def residual(y_BE: Tensor, decoded_BE: Tensor, b_E: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """e = y - (ŷ + b) [B, E], its moments and those of y [E + 1]."""
    e_BE = y_BE - (decoded_BE + b_E)
    return e_BE, moments(e_BE), moments(y_BE)


def explained(
    moments: Tensor, error: Tensor, active: Tensor, num_rows: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the sums over all rows say (0-dim, float64).

    Returns:
        Σ‖y-ȳ‖², or 0 where rounding alone could leave as much; what an error is divided by, which
        then is the number of rows; of `error` that ratio, an FVU, which then is NaN; and the
        `active` entries a row.
    """
    left, l0 = moments[-1] - moments[:-1].square().sum() / num_rows, active.double() / num_rows
    if left <= ROUNDING * moments[-1]:
        return torch.zeros_like(left), torch.full_like(left, num_rows), left * torch.nan, l0
    return left, left, error / left, l0


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


def update_rows(
    rows: AdamRows,
    grad_RD: Tensor,
    rows_R: Tensor | None,
    adam: AdamStep,
    place_F: Tensor | None = None,
) -> None:
    """One step of Adam (Kingma & Ba 2015, as in `torch.optim.Adam`) on some rows, in place.

    Args:
        rows: all rows and their state.
        grad_RD: the gradient of some rows; it may be overwritten.
        rows_R: which rows, each once, int64; None for all. Those of number F are none. With a first
            moment every row is visited, of gradient 0 where there is no other.
        adam: the step's settings.
        place_F: where the gradient of each row stands, as `rows_R` has it, -1 for nowhere.
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


def decide(
    loss: Tensor,
    norm: Tensor,
    counts_3: Tensor,
    num_held: Tensor,
    clip_norm: float | None,
    may_hold: bool,
) -> tuple[Tensor, Tensor]:
    """Whether a step is to change nothing, and what its gradient is multiplied by (0-dim).

    Args:
        loss, norm: a step is skipped where one of them is not finite.
        counts_3: steps taken, steps skipped, and of these the last ones in a row; changed in place.
        num_held: steps that are to be repeated; the same.
        clip_norm: what the norm is to exceed no more; None for any.
        may_hold: whether a step to be skipped is held instead; and so is one after a held one.
    """
    skip = not bool((loss + norm).isfinite())
    if may_hold:
        skip = skip or int(num_held) > 0
        num_held += skip
    else:
        counts_3[1] += skip
    counts_3[0] += not skip
    if may_hold:
        counts_3[2] *= skip
    else:
        counts_3[2] = (counts_3[2] + 1) * skip
    scale = 1.0 if clip_norm is None else min(1.0, clip_norm / max(float(norm), 1e-300))
    return torch.tensor(skip, device=norm.device), torch.full_like(norm, scale)


def count_fired(
    silent_F: Tensor,
    fired_F: Tensor,
    window_tokens: Tensor,
    now_F: Tensor,
    num_tokens: int,
    skip: Tensor,
) -> None:
    """Count a batch in which latent f fired on `now_F[f]` of `num_tokens` tokens, in place.

    Args:
        silent_F: tokens since each latent last fired.
        fired_F: tokens on which it fired, of `window_tokens`.
        skip: whether it is not to be counted.
    """
    if not skip:
        silent_F.copy_((silent_F + num_tokens).where(now_F == 0, 0))
        fired_F += now_F
        window_tokens += num_tokens
