"""A pass through some latents alone, densely: what AuxK asks of the dead ones."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def chosen_pass(
    x_BD: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    c_D: Tensor,
    W_dec: Tensor,
    chosen_d: Tensor,
    select: Callable[[Tensor], Tensor],
    dtype: torch.dtype,
) -> Tensor:
    """What the chosen latents decode to [B, E]: five products of B × d with the backward pass.

    Args:
        x_BD: the rows, centred already: x - c. They get no gradient.
        W_enc, b_enc, c_D, W_dec: what it is differentiable in; the gradients of both matrices are
            sparse tensors of the chosen rows.
        chosen_d: which latents, rising.
        select: from z [B, d] to the mask of what fires, all of it positive.
        dtype: of the products.
    """
    return _ChosenPass.apply(x_BD, W_enc, b_enc, c_D, W_dec, chosen_d, select, dtype)


class _ChosenPass(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_BD: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        c_D: Tensor,
        W_dec: Tensor,
        chosen_d: Tensor,
        select: Callable[[Tensor], Tensor],
        dtype: torch.dtype,
    ) -> Tensor:
        x_BD, out_dtype = x_BD.to(dtype), x_BD.dtype
        W_enc_dD, W_dec_dE = (W[chosen_d].to(dtype) for W in (W_enc, W_dec))
        f_Bd = torch.addmm(b_enc[chosen_d].to(dtype), x_BD, W_enc_dD.T)
        on_Bd = select(f_Bd).to(dtype)  # times ones and zeros: vectorised, where masks are not
        f_Bd.mul_(on_Bd)
        ctx.save_for_backward(x_BD, f_Bd, on_Bd, W_enc, W_dec_dE, chosen_d)
        return (f_Bd @ W_dec_dE).to(out_dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BE: Tensor) -> tuple[Tensor | None, ...]:
        x_BD, f_Bd, on_Bd, W_enc, W_dec_dE, chosen_d = ctx.saved_tensors
        grad_BE, num_latents = grad_BE.to(x_BD.dtype), len(W_enc)
        grad_W_dec = _rows(f_Bd.T @ grad_BE, chosen_d, num_latents, W_enc.dtype)
        grad_Bd = (grad_BE @ W_dec_dE.T).mul_(on_Bd)
        grad_W_enc = _rows(grad_Bd.T @ x_BD, chosen_d, num_latents, W_enc.dtype)
        grad_b_d = grad_Bd.sum(0, dtype=W_enc.dtype)
        grad_b_enc = grad_b_d.new_zeros(num_latents).index_copy_(0, chosen_d, grad_b_d)
        grad_c_D = -(grad_b_d @ W_enc[chosen_d]) if ctx.needs_input_grad[3] else None
        return None, grad_W_enc, grad_b_enc, grad_c_D, grad_W_dec, None, None, None


def _rows(grad_dD: Tensor, chosen_d: Tensor, num_latents: int, dtype: torch.dtype) -> Tensor:
    shape = (num_latents, grad_dD.shape[1])
    return torch.sparse_coo_tensor(chosen_d[None], grad_dD.to(dtype), shape, is_coalesced=True)
