"""The encoder's product, block by block, so that no tensor of B × F is ever held."""

from collections.abc import Iterator

import torch
from torch import Tensor

from sae_dist.kernels.code import Code

_BLOCK_VALUES = 1 << 22  # 16 MiB in float32: what follows the product finds it in the cache
_BLOCK_LATENTS = 1 << 17
_GROUP = 32


def blocks(x_BD: Tensor, W_FD: Tensor, b_F: Tensor) -> Iterator[tuple[range, range, Tensor]]:
    """Yield rows, latents and their z = x Wᵀ + b, row after row of blocks."""
    num_rows, num_latents = len(x_BD), len(W_FD)
    width = min(num_latents, _BLOCK_LATENTS)
    height = max(1, min(num_rows, _BLOCK_VALUES // width))
    for row in range(0, num_rows, height):
        rows = range(row, min(row + height, num_rows))
        for latent in range(0, num_latents, width):
            latents = range(latent, min(latent + width, num_latents))
            W_fD = W_FD[latents.start : latents.stop]
            b_f = b_F[latents.start : latents.stop]
            yield rows, latents, torch.addmm(b_f, x_BD[rows.start : rows.stop], W_fD.T)


@torch.no_grad()
def largest(x_BD: Tensor, W_FD: Tensor, b_F: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest pre-activations of each row and their latents [B, k], in no order.

    k must not exceed the number of latents.
    """
    values_BK = x_BD.new_empty(len(x_BD), k)
    latents_BK = torch.empty(len(x_BD), k, dtype=torch.int64, device=x_BD.device)
    for rows, latents, z_bf in blocks(x_BD, W_FD, b_F):
        values, indices = _largest_of_block(z_bf, min(k, z_bf.shape[1]))
        indices += latents.start
        here = slice(rows.start, rows.stop)
        if latents.start:  # blocks of latents before this one have filled their share
            held = min(k, latents.start)
            values = torch.cat([values_BK[here, :held], values], 1)
            indices = torch.cat([latents_BK[here, :held], indices], 1)
            values, chosen = values.topk(min(k, values.shape[1]), dim=1, sorted=False)
            indices = indices.gather(1, chosen)
        values_BK[here, : values.shape[1]] = values
        latents_BK[here, : values.shape[1]] = indices
    return values_BK, latents_BK


def _largest_of_block(z_bf: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row: they lie in the k groups whose maxima are largest."""
    num_groups = z_bf.shape[1] // _GROUP
    if z_bf.shape[1] % _GROUP or num_groups < 2 * k:
        values, indices = z_bf.topk(k, dim=1, sorted=False)
        return values, indices
    z_bgi = z_bf.view(len(z_bf), num_groups, _GROUP)
    groups_bk = z_bgi.amax(2).topk(k, dim=1, sorted=False).indices
    inside = z_bgi.gather(1, groups_bk[:, :, None].expand(-1, -1, _GROUP)).flatten(1)
    values, chosen = inside.topk(k, dim=1, sorted=False)
    return values, groups_bk.gather(1, chosen // _GROUP) * _GROUP + chosen % _GROUP


@torch.no_grad()
def above(
    x_BD: Tensor, W_FD: Tensor, b_F: Tensor, floor_F: Tensor, limit: int
) -> tuple[Code, Tensor] | None:
    """All pre-activations greater than their latent's floor, or None if they are over `limit`.

    Returns:
        the pattern, each row's latents rising, and the values [N].
    """
    rows_of, latents_of, values_of, num = [], [], [], 0
    for rows, latents, z_bf in blocks(x_BD, W_FD, b_F):
        row, latent = (z_bf > floor_F[latents.start : latents.stop]).nonzero(as_tuple=True)
        num += len(row)
        if num > limit:
            return None
        rows_of.append(row + rows.start)
        latents_of.append(latent + latents.start)
        values_of.append(z_bf[row, latent])
    rows_N, latents_N, values_N = torch.cat(rows_of), torch.cat(latents_of), torch.cat(values_of)
    if len(W_FD) > _BLOCK_LATENTS:  # blocks of latents alternate within the same rows
        order_N = rows_N.argsort(stable=True)
        rows_N, latents_N, values_N = rows_N[order_N], latents_N[order_N], values_N[order_N]
    return Code.from_rows(rows_N, latents_N, len(x_BD), len(W_FD)), values_N
