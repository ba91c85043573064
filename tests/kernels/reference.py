"""What every kernel must compute, in plain torch and as plainly as can be: see `dispatch`."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from sae_dist.kernels import AdamRows, AdamStep, LatentRuns, SparsePattern
from sae_dist.kernels.plain import GROUP, ROUNDING


def product(x_bD: Tensor, W_fD: Tensor, b_f: Tensor) -> tuple[Tensor, Tensor]:
    z_bf = (x_bD.float() @ W_fD.float().T + b_f).bfloat16()
    full_bf = pad(z_bf.float(), (0, -z_bf.shape[1] % GROUP), value=-torch.inf)
    return z_bf, full_bf.unflatten(1, (-1, GROUP)).amax(2)


def round_rows(W_FD: Tensor, bf16_FD: Tensor | None, error_F: Tensor, norm_F: Tensor) -> None:
    norm_F.copy_(torch.linalg.vector_norm(W_FD, dim=1))
    if bf16_FD is not None:
        bf16_FD.copy_(W_FD)
        error_F.copy_(torch.linalg.vector_norm(W_FD - bf16_FD, dim=1))


def group_errors(
    error_f: Tensor, norm_f: Tensor, b_f: Tensor, own_b_f: Tensor, dtype: torch.dtype, width: int
) -> tuple[Tensor, Tensor, Tensor]:
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
    rows_n, latents_n = entries(z_bf, maxima_bg, floor_b, error_bound_bg)
    places = latents_N[int(num_before) :]
    places[: len(latents_n)] = latents_n[: len(places)]
    counts_b = torch.bincount(rows_n, minlength=len(z_bf))
    return num_before + pad(counts_b.cumsum(0), (1, 0))


def topk(x_bD: Tensor, W_FD: Tensor, b_F: Tensor, k: int) -> tuple[Tensor, Tensor]:
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
    return _dense(values_N, code) @ W_FD.to(values_N.dtype)


def sddmm(u_BD: Tensor, W_FD: Tensor, code: SparsePattern) -> Tensor:
    return pad(u_BD @ W_FD.to(u_BD.dtype).T, (0, 1))[code.rows_N, code.latents_N]


def spmm_t(
    values_N: Tensor, u_BD: Tensor, code: SparsePattern, *, present_only: bool = False
) -> Tensor:
    sums_FD = _dense(values_N, code).T @ u_BD.to(values_N.dtype)
    return pad(sums_FD, (0, 0, 0, 1))[code.present_R] if present_only else sums_FD


def latent_runs(latents_N: Tensor, num_latents: int) -> LatentRuns:
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
    sums_RD = spmm_t(values_N, u_BD, code, present_only=True)
    left_RD = sums_RD
    if unit_FD is not None:
        unit_RD = pad(unit_FD, (0, 0, 0, 1))[code.present_R]
        left_RD = sums_RD - torch.linalg.vecdot(sums_RD, unit_RD)[:, None] * unit_RD
    return sums_RD, torch.linalg.vector_norm(left_RD, dim=1), _dense(values_N, code).sum(0)


def centre_gradient(grad_b_F: Tensor, W_FD: Tensor, code: SparsePattern) -> Tensor:
    return -(grad_b_F.where(code.count_by_latent() > 0, 0.0) @ W_FD)


def moments(y_BE: Tensor) -> Tensor:
    y_BE = y_BE.double()
    return torch.cat([y_BE.sum(0), y_BE.square().sum()[None]])


def residual(y_BE: Tensor, decoded_BE: Tensor, b_E: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    e_BE = y_BE - (decoded_BE + b_E)
    return e_BE, moments(e_BE), moments(y_BE)


def explained(
    moments: Tensor, error: Tensor, active: Tensor, num_rows: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    left, l0 = moments[-1] - moments[:-1].square().sum() / num_rows, active.double() / num_rows
    if left <= ROUNDING * moments[-1]:
        return torch.zeros_like(left), torch.full_like(left, num_rows), left * torch.nan, l0
    return left, left, error / left, l0


def gradient_square(grad_RD: Tensor, rows_R: Tensor | None, W_FD: Tensor | None) -> Tensor:
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
    if not skip:
        silent_F.copy_((silent_F + num_tokens).where(now_F == 0, 0))
        fired_F += now_F
        window_tokens += num_tokens
