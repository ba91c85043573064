"""What a loss needs of a batch, in Triton: errors, their sums over the rows, and shares of them."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sae_dist.kernels.plain import ROUNDING

_ROWS = 16  # of one program


@triton.jit(do_not_specialize=["num_rows"])
def _moments(
    y_ptr,
    decoded_ptr,
    b_ptr,
    e_ptr,
    out_ptr,
    num_rows,
    width,
    ROWS: tl.constexpr,
    TILE_E: tl.constexpr,
):
    # Of some rows of y, and with what was decoded of the errors before: sums, and those of squares.
    program = tl.program_id(0).to(tl.int64)
    row_R = program * ROWS + tl.arange(0, ROWS)
    of_errors = out_ptr + program * (width + 1)
    of_y = of_errors
    if decoded_ptr is not None:
        of_errors += program * (width + 1)
        of_y = of_errors + width + 1
    e_squares_E = tl.zeros([TILE_E], tl.float64)
    y_squares_E = tl.zeros([TILE_E], tl.float64)
    for first in range(0, width, TILE_E):
        col_E = first + tl.arange(0, TILE_E)
        here_RE = row_R[:, None] * width + col_E[None, :]
        is_inside_RE = (row_R < num_rows)[:, None] & (col_E < width)[None, :]
        y_RE = tl.load(y_ptr + here_RE, mask=is_inside_RE, other=0.0)
        if decoded_ptr is not None:
            decoded_RE = tl.load(decoded_ptr + here_RE, mask=is_inside_RE, other=0.0)
            b_E = tl.load(b_ptr + col_E, mask=col_E < width, other=0.0)
            e_RE = tl.where(is_inside_RE, y_RE - (decoded_RE + b_E[None, :]), 0.0)
            tl.store(e_ptr + here_RE, e_RE, mask=is_inside_RE)
            exact_RE = e_RE.to(tl.float64)
            tl.store(of_errors + col_E, tl.sum(exact_RE, axis=0), mask=col_E < width)
            e_squares_E += tl.sum(exact_RE * exact_RE, axis=0)
        exact_RE = y_RE.to(tl.float64)
        tl.store(of_y + col_E, tl.sum(exact_RE, axis=0), mask=col_E < width)
        y_squares_E += tl.sum(exact_RE * exact_RE, axis=0)
    if decoded_ptr is not None:
        tl.store(of_errors + width, tl.sum(e_squares_E))
    tl.store(of_y + width, tl.sum(y_squares_E))


def residual(y_BE: Tensor, decoded_BE: Tensor, b_E: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See `dispatch.residual`; everything that is given is float32."""
    e_BE, width = torch.empty_like(y_BE), y_BE.shape[1]
    sums_S = _launch(y_BE, 2 * (width + 1), decoded_BE.contiguous(), b_E, e_BE)
    return e_BE, sums_S[: width + 1], sums_S[width + 1 :]


def moments(y_BE: Tensor) -> Tensor:
    """See `dispatch.moments`; y is float32."""
    return _launch(y_BE, y_BE.shape[1] + 1)


def _launch(y_BE: Tensor, num_sums: int, *more: Tensor) -> Tensor:
    num_rows, width = y_BE.shape
    num_programs = triton.cdiv(num_rows, _ROWS)
    parts_PS = torch.empty(num_programs, num_sums, dtype=torch.float64, device=y_BE.device)
    decoded_BE, b_E, e_BE = more or (None, None, None)
    tile = min(triton.next_power_of_2(width), 128)
    given = y_BE.contiguous(), decoded_BE, b_E, e_BE, parts_PS
    _moments[(num_programs,)](*given, num_rows, width, ROWS=_ROWS, TILE_E=tile)
    return parts_PS.sum(0)


@triton.jit(do_not_specialize=["num_rows"])
def _explained(
    moments_ptr,
    error_ptr,
    active_ptr,
    out_ptr,
    num_rows,
    width,
    ROUNDING: tl.constexpr,
    TILE_E: tl.constexpr,
):
    num = num_rows.to(tl.float64)
    squares_E = tl.zeros([TILE_E], tl.float64)
    for first in range(0, width, TILE_E):
        col_E = first + tl.arange(0, TILE_E)
        sum_E = tl.load(moments_ptr + col_E, mask=col_E < width, other=0.0)
        squares_E += sum_E * sum_E
    total = tl.load(moments_ptr + width)
    left = total - tl.sum(squares_E) / num
    variation = tl.where(left <= ROUNDING * total, 0.0, left)
    scale = tl.where(variation == 0.0, num, variation)
    fvu = tl.load(error_ptr) / scale
    tl.store(out_ptr, variation)
    tl.store(out_ptr + 1, scale)
    tl.store(out_ptr + 2, tl.where(variation == 0.0, float("nan"), fvu))
    tl.store(out_ptr + 3, tl.load(active_ptr).to(tl.float64) / num)


def explained(
    moments: Tensor, error: Tensor, active: Tensor, num_rows: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `dispatch.explained`; moments and error are float64."""
    width, out_4 = len(moments) - 1, moments.new_empty(4)
    tile = min(triton.next_power_of_2(width), 1024)
    given = moments, error, active, out_4, num_rows, width
    _explained[(1,)](*given, ROUNDING=ROUNDING, TILE_E=tile)
    return out_4[0], out_4[1], out_4[2], out_4[3]
