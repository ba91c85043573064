"""The sparse arithmetic of a step in Triton: rows are summed and multiplied where they lie."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from sae_dist.kernels.pattern import LatentRuns, SparsePattern

_ENTRIES = 8  # at once: so many rows are on their way from memory together
_PIECE = 128  # entries of a segment that one program adds
_RUNS = 256  # latents or places that one program looks at


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
    NUM_EACH: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_D: tl.constexpr,
):
    entry_N = tl.program_id(0).to(tl.int64) * TILE_N + tl.arange(0, TILE_N)
    is_place_N = entry_N < num_entries
    row_N = entry_N // NUM_EACH
    if rows_ptr is not None:
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
        None if code.num_each else code.rows_N.contiguous(),
        code.latents_N.contiguous(),
        dots_N,
        num_entries,
        len(W_FD),
        width,
        NUM_EACH=code.num_each or 1,
        TILE_N=_ENTRIES,
        TILE_D=_tile(width, 256),
        enable_fp_fusion=True,
    )
    return dots_N


@triton.jit
def _sum_entries(
    values_ptr,
    order_ptr,
    sources_ptr,
    table_ptr,
    begin,
    end,
    col_D,
    num_sources,
    width,
    NUM_EACH: tl.constexpr,
    TILE_N: tl.constexpr,
):
    """Σ value · table[source] of the entries at some places, and Σ value."""
    is_col_D = col_D < width
    sum_ND = tl.zeros([TILE_N, col_D.shape[0]], tl.float32)
    total_N = tl.zeros([TILE_N], tl.float32)
    for first in range(begin, end, TILE_N):
        entry_N = first + tl.arange(0, TILE_N)
        is_entry_N = entry_N < end
        if order_ptr is not None:
            entry_N = tl.load(order_ptr + entry_N, mask=is_entry_N, other=0)
        if sources_ptr is None:
            source_N = entry_N // NUM_EACH
        else:
            source_N = tl.load(sources_ptr + entry_N, mask=is_entry_N, other=num_sources)
        is_entry_N &= source_N < num_sources
        value_N = tl.load(values_ptr + entry_N, mask=is_entry_N, other=0.0)
        row_ND = tl.load(
            table_ptr + source_N[:, None].to(tl.int64) * width + col_D[None, :],
            mask=is_entry_N[:, None] & is_col_D[None, :],
            other=0.0,
        )
        sum_ND += value_N.to(tl.float32)[:, None] * row_ND.to(tl.float32)
        total_N += value_N.to(tl.float32)
    return tl.sum(sum_ND, axis=0), tl.sum(total_N)


@triton.jit(do_not_specialize=["num_segments"])
def _pieces(
    values_ptr,
    order_ptr,
    sources_ptr,
    table_ptr,
    keys_ptr,
    offsets_ptr,
    out_ptr,
    totals_ptr,
    num_sources,
    num_segments,
    width,
    NUM_EACH: tl.constexpr,
    PIECE: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_D: tl.constexpr,
):
    # Of the segment that goes on beyond a multiple of PIECE, what there is to the next one.
    nth = tl.program_id(0).to(tl.int64)
    begin = (nth + 1) * PIECE
    segment = tl.load(keys_ptr + begin)
    if segment >= num_segments:
        return
    if tl.load(offsets_ptr + segment) == begin:
        return
    end = tl.minimum(tl.load(offsets_ptr + segment + 1), begin + PIECE)
    col_D = tl.program_id(1) * TILE_D + tl.arange(0, TILE_D)
    sum_D, total = _sum_entries(
        values_ptr,
        order_ptr,
        sources_ptr,
        table_ptr,
        begin,
        end,
        col_D,
        num_sources,
        width,
        NUM_EACH,
        TILE_N,
    )
    tl.store(out_ptr + nth * width + col_D, sum_D, mask=col_D < width)
    if tl.program_id(1) == 0:
        tl.store(totals_ptr + nth, total)


@triton.jit
def _with_pieces(sum_D, pieces_ptr, begin, end, col_D, width, PIECE: tl.constexpr):
    """A segment's sum with those of its pieces, in their order; without any as it is."""
    if pieces_ptr is not None:
        for piece in range(begin // PIECE, (tl.maximum(end, 1) - 1) // PIECE):
            sum_D += tl.load(pieces_ptr + piece * width + col_D, mask=col_D < width, other=0.0)
    return sum_D


@triton.jit(do_not_specialize=["num_segments"])
def _segment_sums(
    values_ptr,
    order_ptr,
    sources_ptr,
    table_ptr,
    segments_ptr,
    offsets_ptr,
    pieces_ptr,
    piece_totals_ptr,
    unit_ptr,
    out_ptr,
    norms_ptr,
    totals_ptr,
    num_sources,
    num_segments,
    width,
    NUM_EACH: tl.constexpr,
    PIECE: tl.constexpr,
    WRITES_EMPTY: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_D: tl.constexpr,
):
    nth = tl.program_id(0).to(tl.int64)
    segment = nth
    if segments_ptr is not None:
        segment = tl.load(segments_ptr + nth)
    begin = tl.load(offsets_ptr + segment, mask=segment < num_segments, other=0)
    end = tl.load(offsets_ptr + segment + 1, mask=segment < num_segments, other=0)
    own_end = end
    if pieces_ptr is not None:
        own_end = tl.minimum(end, (begin // PIECE + 1) * PIECE)
    read_width = tl.where(begin < end, width, WRITES_EMPTY * width)
    total, square, along = 0.0, 0.0, 0.0
    first_col, step = tl.program_id(1) * TILE_D, tl.num_programs(1) * TILE_D
    for first in range(first_col, read_width, step):
        col_D = first + tl.arange(0, TILE_D)
        is_col_D = col_D < width
        sum_D, total = _sum_entries(
            values_ptr,
            order_ptr,
            sources_ptr,
            table_ptr,
            begin,
            own_end,
            col_D,
            num_sources,
            width,
            NUM_EACH,
            TILE_N,
        )
        sum_D = _with_pieces(sum_D, pieces_ptr, begin, end, col_D, width, PIECE)
        tl.store(out_ptr + nth * width + col_D, sum_D, mask=is_col_D)
        square += tl.sum(sum_D * sum_D)
        if unit_ptr is not None:
            w_D = tl.load(unit_ptr + segment * width + col_D, mask=is_col_D, other=0.0)
            along += tl.sum(sum_D * w_D)
    if norms_ptr is not None:
        tl.store(norms_ptr + nth, tl.sqrt(tl.maximum(square - along * along, 0.0)))
    if totals_ptr is not None:
        total = _with_pieces(total, piece_totals_ptr, begin, end, 0, 1, PIECE)
        tl.store(totals_ptr + segment, total, mask=segment < num_segments)


@dataclass(frozen=True, slots=True)
class _Entries:
    """What is summed: values[n] · table[sources[n]] of the places n, segment by segment.

    Attributes:
        order_N: the entry at each place; None if these stand in order.
        sources_N: of each entry; None if every `num_each` entries have the next one. What the table
            does not have adds nothing.
        keys_N: the segment at each place.
        offsets_S: where each segment begins, and the last one's end.
    """

    values_N: Tensor
    table_TD: Tensor
    keys_N: Tensor
    offsets_S: Tensor
    order_N: Tensor | None = None
    sources_N: Tensor | None = None
    num_each: int = 1

    def sums(
        self,
        *,
        longest: int,
        segments_R: Tensor | None = None,
        unit_SD: Tensor | None = None,
        norms_R: Tensor | None = None,
        totals_S: Tensor | None = None,
    ) -> Tensor:
        """Their sums, float32 [S, D], always in the same order.

        A segment is cut at multiples of a piece: one program adds what comes before the first, and
        then what others made of the rest. There can be N / piece of them, so nothing waits for
        their number; none, where no segment is longer.

        Args:
            longest: a segment's entries, at most.
            segments_R: the only ones to be summed; S stands for none, whose sum is 0.
            norms_R: where the sums' norms are to be written; of rows at unit norm `unit_SD` without
                what lies along them. Sums of segments without entries are then not written.
            totals_S: where Σ value is to be written.
        """
        num_sources, width = self.table_TD.shape
        num_segments, tile = len(self.offsets_S) - 1, _tile(width, 512)
        read = self.values_N, self.order_N, self.sources_N, self.table_TD
        given = [None if t is None else t.contiguous() for t in read]
        sizes, tiles = (num_sources, num_segments, width), triton.cdiv(width, tile)
        constants = {"NUM_EACH": self.num_each, "PIECE": _PIECE, "TILE_N": _ENTRIES}
        constants |= {"TILE_D": tile, "enable_fp_fusion": True}
        pieces_PD = piece_totals_P = None
        num_pieces = (len(self.keys_N) - 1) // _PIECE
        if longest > _PIECE and num_pieces > 0:
            pieces_PD = torch.empty(num_pieces, width, device=self.table_TD.device)
            piece_totals_P = torch.empty(num_pieces, device=self.table_TD.device)
            found = self.keys_N, self.offsets_S, pieces_PD, piece_totals_P
            _pieces[(num_pieces, tiles)](*given, *found, *sizes, **constants)
        num_sums = num_segments if segments_R is None else len(segments_R)
        sums_RD = torch.empty(num_sums, width, device=self.table_TD.device)
        is_gradient = norms_R is not None  # whose programs look at whole rows
        if num_sums:
            _segment_sums[(num_sums, 1 if is_gradient else tiles)](
                *given,
                segments_R,
                self.offsets_S,
                pieces_PD,
                piece_totals_P,
                unit_SD,
                sums_RD,
                norms_R,
                totals_S,
                *sizes,
                WRITES_EMPTY=int(not is_gradient),
                **constants,
            )
        return sums_RD


def spmm(values_N: Tensor, W_FD: Tensor, code: SparsePattern) -> Tensor:
    """For each row the sum of its entries' value · W_f, float32 [B, D], in a fixed order."""
    longest = code.num_each or code.num_latents
    keys_N = code.rows_N if longest > _PIECE else code.latents_N  # of which nothing is read then
    entries = _Entries(values_N, W_FD, keys_N, code.offsets_B, sources_N=code.latents_N)
    return entries.sums(longest=longest)


def spmm_t(
    values_N: Tensor, u_BD: Tensor, code: SparsePattern, *, present_only: bool = False
) -> Tensor:
    """For each latent the sum of its entries' value · u_b, float32, in a fixed order.

    Returns:
        [F, D], or with `present_only` the rows of `code.present_R` alone [R, D].
    """
    segments_R = code.present_R if present_only else None
    entries = _by_latent(values_N, u_BD, code)
    return entries.sums(longest=len(u_BD), segments_R=segments_R)


def row_gradient(
    values_N: Tensor, u_BD: Tensor, code: SparsePattern, unit_FD: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """See `dispatch.row_gradient`."""
    runs, num_rows = code.runs, len(code.runs.rows_R)
    norms_R = torch.empty(num_rows, device=u_BD.device)
    is_by_latent = num_rows == code.num_latents
    made = torch.empty if is_by_latent else torch.zeros
    totals_F = made(code.num_latents, device=u_BD.device)
    sums_RD = _by_latent(values_N, u_BD, code).sums(
        longest=len(u_BD),
        segments_R=None if is_by_latent else runs.rows_R,
        unit_SD=unit_FD,
        norms_R=norms_R,
        totals_S=totals_F,
    )
    return sums_RD, norms_R, totals_F


def _by_latent(values_N: Tensor, u_BD: Tensor, code: SparsePattern) -> _Entries:
    runs = code.runs
    return _Entries(
        values_N,
        u_BD,
        runs.keys_N,
        runs.offsets_F,
        order_N=runs.order_N,
        sources_N=None if code.num_each else code.rows_N,
        num_each=code.num_each or 1,
    )


@triton.jit
def _weighted_rows(
    values_ptr,
    rows_ptr,
    W_ptr,
    out_ptr,
    num_places,
    num_rows,
    width,
    PIECE: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_D: tl.constexpr,
):
    begin = tl.program_id(0) * PIECE
    col_D = tl.program_id(1) * TILE_D + tl.arange(0, TILE_D)
    end = tl.minimum(begin + PIECE, num_places)
    sum_D = _sum_entries(
        values_ptr, rows_ptr, None, W_ptr, begin, end, col_D, num_rows, width, 1, TILE_N
    )[0]
    tl.store(out_ptr + tl.program_id(0) * width + col_D, -sum_D, mask=col_D < width)


def centre_gradient(grad_b_F: Tensor, W_FD: Tensor, code: SparsePattern) -> Tensor:
    """See `dispatch.centre_gradient`: of W only the rows of latents that have entries are read."""
    rows_R, width = code.present_R, W_FD.shape[1]
    tile, num_programs = _tile(width, 512), triton.cdiv(len(rows_R), _PIECE)
    parts_PD = torch.empty(num_programs, width, device=W_FD.device)
    given = grad_b_F.contiguous(), rows_R, W_FD.contiguous(), parts_PD
    _weighted_rows[(num_programs, triton.cdiv(width, tile))](
        *given,
        len(rows_R),
        len(W_FD),
        width,
        PIECE=_PIECE,
        TILE_N=_ENTRIES,
        TILE_D=tile,
        enable_fp_fusion=True,
    )
    return parts_PD.sum(0)


@triton.jit
def _first_reaching(keys_ptr, least_I, num_places, NUM_STEPS: tl.constexpr):
    """The first place whose key is not below: the keys rise."""
    low_I, high_I = least_I * 0, least_I * 0 + num_places
    for _ in range(NUM_STEPS):
        middle_I = (low_I + high_I) // 2
        is_open_I = low_I < high_I
        key_I = tl.load(keys_ptr + middle_I, mask=is_open_I, other=0)
        is_below_I = is_open_I & (key_I < least_I)
        low_I = tl.where(is_below_I, middle_I + 1, low_I)
        high_I = tl.where(is_open_I & (key_I >= least_I), middle_I, high_I)
    return low_I


@triton.jit(do_not_specialize=["num_places"])
def _latent_runs(
    keys_ptr,
    offsets_ptr,
    counts_ptr,
    rows_ptr,
    place_ptr,
    num_places,
    num_latents,
    IS_BY_LATENT: tl.constexpr,
    NUM_STEPS: tl.constexpr,
    TILE: tl.constexpr,
):
    nth_I = tl.program_id(0) * TILE + tl.arange(0, TILE)
    begin_I = _first_reaching(keys_ptr, nth_I, num_places, NUM_STEPS)
    end_I = _first_reaching(keys_ptr, nth_I + 1, num_places, NUM_STEPS)
    is_latent_I, is_present_I = nth_I < num_latents, begin_I < end_I
    tl.store(offsets_ptr + nth_I, begin_I.to(tl.int64), mask=nth_I <= num_latents)
    tl.store(counts_ptr + nth_I, (end_I - begin_I).to(tl.int64), mask=is_latent_I)
    if IS_BY_LATENT:
        row_I = tl.where(is_present_I, nth_I, num_latents)
        tl.store(rows_ptr + nth_I, row_I.to(tl.int64), mask=is_latent_I)
        tl.store(place_ptr + nth_I, tl.where(is_present_I, nth_I, -1), mask=is_latent_I)
    else:
        is_place_I = nth_I < num_places
        key_I = tl.load(keys_ptr + nth_I, mask=is_place_I, other=num_latents)
        before_I = tl.load(keys_ptr + nth_I - 1, mask=is_place_I & (nth_I > 0), other=-1)
        row_I = tl.where(key_I != before_I, key_I, num_latents)
        tl.store(rows_ptr + nth_I, row_I.to(tl.int64), mask=is_place_I)
        tl.store(place_ptr + nth_I, tl.where(is_present_I, begin_I, -1), mask=is_latent_I)


def latent_runs(latents_N: Tensor, num_latents: int) -> LatentRuns:
    """See `dispatch.latent_runs`."""
    num_places, device = len(latents_N), latents_N.device
    keys_N, order_N = latents_N.int().sort(stable=True)  # a fraction of int64's time
    is_by_latent = num_places >= num_latents
    offsets_F = torch.empty(num_latents + 1, dtype=torch.int64, device=device)
    counts_F = torch.empty(num_latents, dtype=torch.int64, device=device)
    num_rows = min(num_places, num_latents)
    rows_R = torch.empty(num_rows, dtype=torch.int64, device=device)
    place_F = torch.empty(num_latents, dtype=torch.int32, device=device)
    _latent_runs[(triton.cdiv(max(num_places, num_latents + 1), _RUNS),)](
        keys_N,
        offsets_F,
        counts_F,
        rows_R,
        place_F,
        num_places,
        num_latents,
        IS_BY_LATENT=is_by_latent,
        NUM_STEPS=num_places.bit_length(),
        TILE=_RUNS,
    )
    return LatentRuns(order_N, keys_N, offsets_F, counts_F, rows_R, place_F)
