"""The sparse arithmetic of a step in Triton: rows are summed and multiplied where they lie."""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import pad

from sae_dist.kernels.pattern import SparsePattern

_ENTRIES = 8  # at once: so many rows are on their way from memory together
_PIECE = 512  # entries of a segment that one program adds


def _tile(width: int, most: int) -> int:
    return min(triton.next_power_of_2(width), most)


@triton.jit(do_not_specialize=["num_entries"])
def _entry_dots(
    u_ptr,
    W_ptr,
    rows_ptr,
    latents_ptr,
    out_ptr,
    num_entries,
    num_latents,
    width,
    TILE_N: tl.constexpr,
    TILE_D: tl.constexpr,
):
    entry_N = tl.program_id(0).to(tl.int64) * TILE_N + tl.arange(0, TILE_N)
    is_place_N = entry_N < num_entries
    row_N = tl.load(rows_ptr + entry_N, mask=is_place_N, other=0)
    latent_N = tl.load(latents_ptr + entry_N, mask=is_place_N, other=num_latents)
    is_entry_N = latent_N < num_latents
    read_width = width * tl.max(is_entry_N.to(tl.int32))  # 0 if there is none
    sum_ND = tl.zeros([TILE_N, TILE_D], tl.float32)
    for first in range(0, read_width, TILE_D):
        col_D = first + tl.arange(0, TILE_D)
        is_inside_ND = is_entry_N[:, None] & (col_D < width)[None, :]
        u_ND = tl.load(u_ptr + row_N[:, None] * width + col_D[None, :], mask=is_inside_ND, other=0)
        W_ND = tl.load(
            W_ptr + latent_N[:, None] * width + col_D[None, :], mask=is_inside_ND, other=0
        )
        sum_ND += u_ND.to(tl.float32) * W_ND.to(tl.float32)
    tl.store(out_ptr + entry_N, tl.sum(sum_ND, axis=1), mask=is_place_N)


def sddmm(u_BD: Tensor, W_FD: Tensor, code: SparsePattern) -> Tensor:
    """For each entry (b, f) the product u_b · W_f, float32 [N]; 0 where there is none."""
    num_entries, width = len(code.latents_N), u_BD.shape[1]
    dots_N = torch.empty(num_entries, device=u_BD.device)
    _entry_dots[(triton.cdiv(num_entries, _ENTRIES),)](
        u_BD.contiguous(),
        W_FD.contiguous(),
        code.rows_N.contiguous(),
        code.latents_N.contiguous(),
        dots_N,
        num_entries,
        len(W_FD),
        width,
        TILE_N=_ENTRIES,
        TILE_D=_tile(width, 256),
        enable_fp_fusion=True,
    )
    return dots_N


@triton.jit
def _segment_sums(
    values_ptr,
    sources_ptr,
    table_ptr,
    begins_ptr,
    ends_ptr,
    pieces_ptr,
    offsets_ptr,
    out_ptr,
    num_sources,
    width,
    PIECE: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_D: tl.constexpr,
):
    segment = tl.program_id(0).to(tl.int64)
    col_D = tl.program_id(1) * TILE_D + tl.arange(0, TILE_D)
    is_col_D = col_D < width
    begin = tl.load(begins_ptr + segment)
    end = tl.minimum(tl.load(ends_ptr + segment), begin + PIECE)
    sum_ND = tl.zeros([TILE_N, TILE_D], tl.float32)
    for first in range(begin, end, TILE_N):
        entry_N = first + tl.arange(0, TILE_N)
        is_entry_N = entry_N < end
        value_N = tl.load(values_ptr + entry_N, mask=is_entry_N, other=0.0)
        source_N = tl.load(sources_ptr + entry_N, mask=is_entry_N, other=num_sources)
        is_source_N = source_N < num_sources
        row_ND = tl.load(
            table_ptr + source_N[:, None] * width + col_D[None, :],
            mask=is_source_N[:, None] & is_col_D[None, :],
            other=0.0,
        )
        sum_ND += tl.where(is_source_N, value_N, 0.0)[:, None] * row_ND.to(tl.float32)
    sum_D = tl.sum(sum_ND, axis=0)
    if pieces_ptr is not None:
        piece_begin = tl.load(offsets_ptr + segment)
        piece_end = tl.load(offsets_ptr + segment + 1)
        for piece in range(piece_begin, piece_end):
            sum_D += tl.load(pieces_ptr + piece * width + col_D, mask=is_col_D, other=0.0)
    tl.store(out_ptr + segment * width + col_D, sum_D, mask=is_col_D)


def _sum_segments(
    values_N: Tensor,
    sources_N: Tensor,
    table_TD: Tensor,
    begins_S: Tensor,
    ends_S: Tensor,
    longest: int,
) -> Tensor:
    """Σ values[n] · table[sources[n]] over each segment begin ≤ n < end, float32 [S, D].

    A source that the table does not have adds nothing. One program adds a segment's first piece,
    others those of its further pieces, which it then adds in their order. There can be at most
    N / piece of them, so nothing waits for their number; none, where no segment is longer.
    """
    given = values_N.contiguous(), sources_N.contiguous(), table_TD.contiguous()
    num_pieces = len(values_N) // _PIECE
    if longest <= _PIECE or not num_pieces or not len(begins_S):
        return _launch(*given, begins_S, ends_S)
    further_S = (ends_S - begins_S) // _PIECE  # the last of them may be empty
    offsets_S = pad(further_S.cumsum(0), (1, 0))
    pieces_P = torch.arange(num_pieces, device=values_N.device)
    segments_P = torch.searchsorted(offsets_S[1:], pieces_P, right=True)
    segments_P.clamp_max_(len(begins_S) - 1)  # pieces that do not exist begin behind its end
    begins_P = begins_S[segments_P] + (1 + pieces_P - offsets_S[segments_P]) * _PIECE
    pieces_PD = _launch(*given, begins_P, ends_S[segments_P])
    return _launch(*given, begins_S, ends_S, pieces_PD, offsets_S)


def _launch(
    values_N: Tensor,
    sources_N: Tensor,
    table_TD: Tensor,
    begins_S: Tensor,
    ends_S: Tensor,
    pieces_PD: Tensor | None = None,
    offsets_S: Tensor | None = None,
) -> Tensor:
    width = table_TD.shape[1]
    tile = _tile(width, 512)
    sums_SD = torch.empty(len(begins_S), width, device=table_TD.device)
    _segment_sums[(len(begins_S), triton.cdiv(width, tile))](
        values_N,
        sources_N,
        table_TD,
        begins_S,
        ends_S,
        pieces_PD,
        offsets_S,
        sums_SD,
        len(table_TD),
        width,
        PIECE=_PIECE,
        TILE_N=_ENTRIES,
        TILE_D=tile,
        enable_fp_fusion=True,
    )
    return sums_SD


def spmm(values_N: Tensor, W_FD: Tensor, code: SparsePattern) -> Tensor:
    """For each row the sum of its entries' value · W_f, float32 [B, D], in a fixed order."""
    begins_B, ends_B = code.offsets_B[:-1], code.offsets_B[1:]
    longest = code.num_each or code.num_latents
    return _sum_segments(values_N, code.latents_N, W_FD, begins_B, ends_B, longest)


def spmm_t(
    values_N: Tensor, u_BD: Tensor, code: SparsePattern, *, present_only: bool = False
) -> Tensor:
    """For each latent the sum of its entries' value · u_b, float32, in a fixed order.

    Returns:
        [F, D], or with `present_only` the rows of `code.present_R` alone [R, D].
    """
    order_N, offsets_F = code.by_latent
    if present_only:
        offsets_F = torch.cat([offsets_F, offsets_F[-1:]])  # of a latent F, which has none
        begins, ends = offsets_F[code.present_R], offsets_F[code.present_R + 1]
    else:
        begins, ends = offsets_F[:-1], offsets_F[1:]
    rows_N = code.rows_N[order_N]
    return _sum_segments(values_N[order_N], rows_N, u_BD, begins, ends, longest=len(u_BD))


def weighted_sum(values_F: Tensor, W_FD: Tensor, code: SparsePattern) -> Tensor:
    """Σ value · W_f over the latents that have entries, float32 [D]: no other row of W is read."""
    rows_R, values_R = code.present_R, values_F[code.present_R.clamp_max(len(W_FD) - 1)]
    begins_P = torch.arange(0, len(rows_R), _PIECE, device=rows_R.device)
    ends_P = (begins_P + _PIECE).clamp_max(len(rows_R))
    return _launch(values_R, rows_R, W_FD.contiguous(), begins_P, ends_P).sum(0)
