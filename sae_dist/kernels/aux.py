"""A pass through some latents alone, densely: what AuxK asks of the dead ones."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sae_dist.kernels import host

# Pre-activations at once, of all slices together: a CPU's blocks are kept small, a GPU's few.
_BLOCK_VALUES = {"cpu": 1 << 26, "cuda": 1 << 30}


def aux_pass(
    x_BD: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    c_D: Tensor,
    W_dec: Tensor,
    chosen_d: Tensor,
    num_chosen: int,
    k: int,
    select: Callable[[Tensor], Tensor],
    dtype: torch.dtype,
) -> Tensor:
    """What the chosen latents decode to [B, E]: five products of B × d with the backward pass.

    They go through b rows at a time, as many as `num_chosen` leaves room for; of more than one
    block only what fires is kept for the backward pass.

    Args:
        x_BD: the rows, centred already: x - c. They get no gradient.
        W_enc, b_enc, c_D, W_dec: what it is differentiable in; the gradients of both matrices are
            sparse tensors of the chosen rows.
        chosen_d: which latents, each once.
        num_chosen: latents chosen in all slices together.
        k: how many fire a row, at most.
        select: from z [b, d] to the mask of what fires, none of it 0; called for the same
            blocks of rows on every slice.
        dtype: of the products.
    """
    num_rows = max(1, _BLOCK_VALUES[x_BD.device.type] // max(1, num_chosen))
    given = x_BD, W_enc, b_enc, c_D, W_dec, chosen_d, num_rows, k, select, dtype
    return _ChosenPass.apply(*given)


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
        num_rows: int,
        k: int,
        select: Callable[[Tensor], Tensor],
        dtype: torch.dtype,
    ) -> Tensor:
        out_BE = x_BD.new_empty(len(x_BD), W_dec.shape[1])
        x_BD = x_BD.to(dtype)
        W_enc_dD, W_dec_dE = (W[chosen_d].to(dtype) for W in (W_enc, W_dec))
        b_enc_d = b_enc[chosen_d].to(dtype)
        blocks, places = [], []
        for x_bD, out_bE in zip(x_BD.split(num_rows), out_BE.split(num_rows), strict=True):
            f_bd = torch.addmm(b_enc_d, x_bD, W_enc_dD.T)
            f_bd.mul_(select(f_bd).to(dtype))  # vectorised, where masks are not
            out_bE.copy_(f_bd @ W_dec_dE)
            block, place = (f_bd, None) if len(x_bD) == len(x_BD) else _packed(f_bd, k)
            blocks.append(block)
            places.append(place)
        ctx.save_for_backward(x_BD, W_enc, W_dec_dE, chosen_d, *blocks, *places)
        ctx.num_rows = num_rows
        return out_BE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BE: Tensor) -> tuple[Tensor | None, ...]:
        x_BD, W_enc, W_dec_dE, chosen_d, *kept = ctx.saved_tensors
        blocks, places = kept[: len(kept) // 2], kept[len(kept) // 2 :]
        parts = x_BD.split(ctx.num_rows), grad_BE.split(ctx.num_rows)
        grad_b_d = W_enc.new_zeros(len(chosen_d))
        grad_enc_dD = W_enc.new_zeros(len(chosen_d), x_BD.shape[1])
        grad_dec_dE = W_enc.new_zeros(W_dec_dE.shape)
        for block, place, x_bD, grad_bE in zip(blocks, places, *parts, strict=True):
            f_bd, grad_bE = _unpacked(block, place, len(chosen_d)), grad_bE.to(x_BD.dtype)
            grad_dec_dE += f_bd.T @ grad_bE
            grad_bd = (grad_bE @ W_dec_dE.T).mul_(f_bd.sign().abs_())
            grad_enc_dD += grad_bd.T @ x_bD
            grad_b_d += grad_bd.sum(0, dtype=grad_b_d.dtype)
        grad_W_enc, grad_W_dec = (
            _rows(g, chosen_d, len(W_enc)) for g in (grad_enc_dD, grad_dec_dE)
        )
        grad_b_enc = grad_b_d.new_zeros(len(W_enc)).index_copy_(0, chosen_d, grad_b_d)
        grad_c_D = -(grad_b_d @ W_enc[chosen_d]) if ctx.needs_input_grad[3] else None
        return None, grad_W_enc, grad_b_enc, grad_c_D, grad_W_dec, *(None,) * 5


def _packed(f_bd: Tensor, k: int) -> tuple[Tensor, Tensor | None]:
    """What fires alone, and where its number cannot be waited for, in which of k places a row."""
    if host.is_at_hand(f_bd):
        return f_bd.to_sparse_csr(), None
    place_bk = f_bd.abs().topk(min(k, f_bd.shape[1]), dim=1, sorted=False).indices
    return f_bd.gather(1, place_bk), place_bk


def _unpacked(block: Tensor, place_bk: Tensor | None, num_chosen: int) -> Tensor:
    if place_bk is None:
        return block.to_dense()
    return block.new_zeros(len(block), num_chosen).scatter_(1, place_bk, block)


def _rows(grad_dD: Tensor, chosen_d: Tensor, num_latents: int) -> Tensor:
    shape = (num_latents, grad_dD.shape[1])
    return torch.sparse_coo_tensor(chosen_d[None], grad_dD, shape, is_coalesced=True)
