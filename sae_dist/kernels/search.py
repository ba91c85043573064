"""Which entries of z = x Wᵀ + b can matter, found with bfloat16 products and a bound on them.

The search reads W, b and x as rounded to bfloat16, ŵ, b̂ and x̂: such products are twice as fast on
most CPUs that have units for them, and ten times on a GPU. For every entry

    |z - ẑ| ≤ ‖x̂‖ ‖w - ŵ‖ + ‖x - x̂‖ ‖w‖ + |b - b̂| + 2 D ε ‖x‖ ‖w‖ + u |ẑ|

(Cauchy-Schwarz; u is the rounding of ẑ, ε that of a sum), so that no entry which reaches a floor is
missed. The few that can are then computed in W's own dtype, each by itself: what is found is exact,
and does not depend on how rows and latents are cut into blocks or slices.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from sae_dist.common.processor import multiplies_bfloat16_faster
from sae_dist.kernels import dispatch as kernels
from sae_dist.kernels.bound import Bound
from sae_dist.kernels.host import Room
from sae_dist.kernels.pattern import SparsePattern
from sae_dist.kernels.plain import GROUP

_BLOCK_LATENTS = {"cpu": 1 << 17}  # on a GPU all of them, as a program looks at a row
# Of a product at once. Each block of rows reads all of W: small ones fit a cache, but wait for W.
_BLOCK_VALUES = {"cpu": 1 << 24, "cuda": 1 << 28}
MOST_RANKED = 512
"""The largest k of which a GPU finds the k largest of a row without that the host waits."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """An encoder's weights with what the search needs to know of them.

    Attributes:
        W_FD, b_F: the weights.
        bf16_FD: W in the dtype of the search: W itself where that is its own.
        error_F, norm_F: ‖w - ŵ‖ and ‖w‖ of each latent.
        is_exact: whether the bound is kept; without it, what ranks first in the search is taken.
    """

    W_FD: Tensor
    b_F: Tensor
    bf16_FD: Tensor
    error_F: Tensor
    norm_F: Tensor
    is_exact: bool = True

    @staticmethod
    @torch.no_grad()
    def of(W_FD: Tensor, b_F: Tensor, *, is_exact: bool = True) -> "Encoder":
        """Round W, and note how far that is from it."""
        W_FD, b_F = W_FD.detach(), b_F.detach()
        dtype = search_dtype(W_FD) if is_exact else rounded_dtype(W_FD)
        bf16_FD = W_FD if dtype is W_FD.dtype else torch.empty_like(W_FD, dtype=dtype)
        error_F, norm_F = torch.zeros_like(b_F), torch.empty_like(b_F)
        encoder = Encoder(W_FD, b_F, bf16_FD, error_F, norm_F, is_exact)
        kernels.round_rows(W_FD, encoder.copy_FD, error_F, norm_F)
        return encoder

    @property
    def copy_FD(self) -> Tensor | None:
        """`bf16_FD` where it is not W itself."""
        return None if self.bf16_FD is self.W_FD else self.bf16_FD

    def values(self, x_BD: Tensor, code: SparsePattern) -> Tensor:
        """z at the entries of a pattern [N]."""
        z_N = kernels.sddmm(x_BD, self.W_FD, code) + self.b_F[code.index_N]
        if code.is_padded:
            z_N.masked_fill_(code.latents_N == code.num_latents, -torch.inf)
        return z_N


def rounded_dtype(W_FD: Tensor) -> torch.dtype:
    """bfloat16 for float32 weights, where the processor has units for it."""
    if W_FD.dtype is torch.float32 and (W_FD.is_cuda or torch.cpu._is_avx512_bf16_supported()):
        return torch.bfloat16
    return W_FD.dtype


def search_dtype(W_FD: Tensor) -> torch.dtype:
    """The dtype that is multiplied fastest, of those that a search in it is exact after all."""
    dtype = rounded_dtype(W_FD)
    is_faster = W_FD.is_cuda or dtype is W_FD.dtype or multiplies_bfloat16_faster()
    return dtype if is_faster else W_FD.dtype


@dataclass(frozen=True)
class _Block:
    """ẑ of some rows and latents, and how far it can be from z.

    Attributes:
        row, latent: where the block begins.
        maxima_bg: the largest ẑ of each group of latents.
    """

    row: int
    latent: int
    z_bf: Tensor
    maxima_bg: Tensor
    bound: Bound

    @cached_property
    def error_bound_bg(self) -> Tensor:
        """All of the bound but u |ẑ|."""
        return self.bound.of_groups()

    def lower_bound(self) -> Tensor:
        """What the largest entry of each group reaches at least [b, g]."""
        return self.maxima_bg - self.error_bound_bg - self.bound.rounding * self.maxima_bg.abs()

    def may_reach(self, floor_b1: Tensor) -> "_Candidates":
        """All entries that may reach their row's floor."""
        row_N, latent_N = kernels.entries(
            self.z_bf, self.maxima_bg, floor_b1.flatten(), self.reach(floor_b1)
        )
        z_N = self.z_bf[row_N, latent_N].to(floor_b1.dtype)
        bound_N = self.error_bound_bg[row_N, latent_N // GROUP] + self.bound.rounding * z_N.abs()
        return _Candidates(row_N + self.row, latent_N + self.latent, z_N, z_N + bound_N)

    def reach(self, floor_b1: Tensor) -> Tensor:
        """By how much ẑ may fall short of the floor where z reaches it [b, g]."""
        return self.error_bound_bg + self.bound.rounding * (floor_b1 - self.error_bound_bg).abs()


class _Candidates(NamedTuple):
    """Entries that may matter [N]: row and latent, ẑ, and what z is at most."""

    row_N: Tensor
    latent_N: Tensor
    z_N: Tensor
    upper_N: Tensor

    def at(self, place_n: Tensor) -> "_Candidates":
        """Those at some places."""
        return _Candidates(*(t[place_n] for t in self))


class _Search:
    """The blocks of one encoder's product with some rows, rows by rows."""

    def __init__(self, encoder: Encoder, x_BD: Tensor, b_F: Tensor) -> None:
        self.encoder, self.W_FD, self.b_F = encoder, encoder.bf16_FD, b_F
        dtype = self.W_FD.dtype
        copy_BD = None if x_BD.dtype is dtype else torch.empty_like(x_BD, dtype=dtype)
        self.x_BD = x_BD if copy_BD is None else copy_BD
        made = x_BD.new_zeros if copy_BD is None else x_BD.new_empty
        self.x_norm_B, self.x_error_B = made(2, len(x_BD)).unbind()
        kernels.round_rows(x_BD, copy_BD, self.x_error_B, self.x_norm_B)
        self.x_error_B += (x_BD.shape[1] * torch.finfo(x_BD.dtype).tiny) ** 0.5  # squares underflow
        self.rounding = torch.finfo(dtype).eps / 2 if encoder.is_exact else 0.0
        self.width = min(len(b_F), _BLOCK_LATENTS.get(b_F.device.type, len(b_F)))
        self.height = max(1, _BLOCK_VALUES[b_F.device.type] // self.width)
        self._of_groups: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def rows(self) -> Iterator[Iterator[_Block]]:
        """For each block of rows, its blocks of latents."""
        for row in range(0, len(self.x_BD), self.height):
            yield self._latents(slice(row, row + self.height))

    def _latents(self, rows: slice) -> Iterator[_Block]:
        for latent in range(0, len(self.W_FD), self.width):
            latents = slice(latent, latent + self.width)
            z_bf, maxima_bg = kernels.product(
                self.x_BD[rows], self.W_FD[latents], self.b_F[latents]
            )
            yield _Block(rows.start, latent, z_bf, maxima_bg, self._bound(rows, latents))

    def _bound(self, rows: slice, latents: slice) -> Bound:
        if latents.start not in self._of_groups:
            self._of_groups[latents.start] = self._errors(latents)
        W_error_g, W_norm_g, b_error_g = self._of_groups[latents.start]
        return Bound(
            x_norm_b=self.x_norm_B[rows],
            x_error_b=self.x_error_B[rows],
            W_error_g=W_error_g,
            W_norm_g=W_norm_g,
            b_error_g=b_error_g,
            rounding=self.rounding,
        )

    def _errors(self, latents: slice) -> tuple[Tensor, Tensor, Tensor]:
        """What a bound needs of the groups of some latents."""
        encoder = self.encoder
        b_f = self.b_F[latents]
        if not encoder.is_exact:
            return (b_f.new_zeros(-(-len(b_f) // GROUP)),) * 3
        errors = encoder.error_F[latents], encoder.norm_F[latents]
        sizes = self.W_FD.dtype, self.x_BD.shape[1]
        return kernels.group_errors(*errors, b_f, encoder.b_F[latents], *sizes)


@torch.no_grad()
def topk_candidates(x_BD: Tensor, encoder: Encoder, k: int) -> tuple[SparsePattern, Tensor]:
    """Of each row at least the k largest positive entries, of equal ones the first latents'.

    In two stages: the k that rank first in the search are computed exactly, and then of the others
    only what can still reach the least of these. On a GPU there are k places a row, for these k.

    Returns:
        the pattern, each row's latents rising, and the values z [N].
    """
    search = _Search(encoder, x_BD, encoder.b_F)
    if kernels.is_fused(search.x_BD) and k <= MOST_RANKED:
        return _topk_in_places(search, x_BD, encoder, k)
    candidates = _joined([_topk_of_rows(blocks, k) for blocks in search.rows()])
    code, z_N = _pattern(candidates, x_BD, encoder), candidates.z_N
    is_first_N = ~(z_N < code.kth_largest(z_N, k)[code.rows_N])
    place_n = is_first_N.nonzero().flatten()
    first = code.at(place_n)
    z_n = encoder.values(x_BD, first)
    if not encoder.is_exact:
        return first, z_n
    can_N = ~is_first_N & ~(candidates.upper_N < first.kth_largest(z_n, k)[code.rows_N])
    place_m = can_N.nonzero().flatten()
    z_m = encoder.values(x_BD, code.at(place_m))
    z_N.index_copy_(0, place_n, z_n).index_copy_(0, place_m, z_m)
    return code.keep(is_first_N | can_N, z_N)


def _topk_in_places(
    search: _Search, x_BD: Tensor, encoder: Encoder, k: int
) -> tuple[SparsePattern, Tensor]:
    found = []
    for (block,) in search.rows():
        x_bD = x_BD[block.row : block.row + len(block.z_bf)]
        given = x_bD, encoder.W_FD, encoder.b_F, block.z_bf, block.maxima_bg, block.bound
        found.append(kernels.topk(*given, k, is_exact=encoder.is_exact))
    values_BK, latents_BK = found[0]
    if len(found) > 1:
        values_BK, latents_BK = (torch.cat(parts) for parts in zip(*found, strict=True))
    return SparsePattern.from_lists(latents_BK, len(encoder.W_FD)), values_BK.flatten()


def _topk_of_rows(blocks: Iterator[_Block], k: int) -> _Candidates:
    """What may be among the k largest of the rows that these blocks are of."""
    found, surely_bk, floor_b1 = [], torch.empty(0), torch.empty(0)
    for block in blocks:
        lower_bound_bg = block.lower_bound()
        if 2 * k > lower_bound_bg.shape[1]:  # k entries are in fewer than k of few groups
            lower_bound_bg = _every_entry(block)
        if block.latent:
            lower_bound_bg = torch.cat([surely_bk, lower_bound_bg], 1)
        num_sure = min(k, lower_bound_bg.shape[1])
        surely_bk = lower_bound_bg.topk(num_sure, dim=1, sorted=False).values
        floor_b1 = surely_bk.amin(1, keepdim=True).clamp_min(0.0)
        if num_sure < k:
            floor_b1.zero_()
        found.append(block.may_reach(floor_b1))
    if len(found) == 1:
        return found[0]
    candidates = _by_row(found)
    floor_N = floor_b1.flatten()[candidates.row_N - block.row]  # the first blocks' were lower
    return candidates.at((~(candidates.upper_N < floor_N)).nonzero().flatten())


def _every_entry(block: _Block) -> Tensor:
    """What each entry of a block reaches at least [b, f]."""
    error_bound_bf = block.error_bound_bg.repeat_interleave(GROUP, dim=1)[:, : block.z_bf.shape[1]]
    return block.z_bf - error_bound_bf - block.bound.rounding * block.z_bf.abs()


@torch.no_grad()
def threshold_candidates(
    x_BD: Tensor, encoder: Encoder, floor_F: Tensor, limit: int, room: Room | None = None
) -> tuple[SparsePattern, Tensor] | None:
    """All entries greater than their latent's floor, or None if they may be over `limit`.

    On a GPU the host waits for their number, unless there is a `room` that knows an earlier one.
    Then `num_lost` of the pattern says for how many it was too small, and if that one was over the
    limit there is hardly any.

    Returns:
        the pattern, each row's latents rising, and the values z [N].
    """
    search = _Search(encoder, x_BD, encoder.b_F - floor_F)
    floor_B1 = x_BD.new_zeros(len(x_BD), 1)
    num_before = room.num_found() if room and kernels.is_fused(search.x_BD) else None
    if room and num_before is not None:
        code = _in_room(search, floor_B1, room, num_before if num_before <= limit else 0)
    else:
        candidates = _reaching(search, floor_B1, limit)
        if room:
            room.tell(limit + 1 if candidates is None else len(candidates.row_N))
        if candidates is None:
            return None
        code = _pattern(candidates, x_BD, encoder)
    z_N = encoder.values(x_BD, code)
    return code.keep(z_N > floor_F[code.index_N], z_N)


def _in_room(search: _Search, floor_B1: Tensor, room: Room, num_before: int) -> SparsePattern:
    """All that may reach the floors, as far as there is room when earlier there were so many."""
    num_latents, num_places = len(search.W_FD), room.size(num_before)
    latents_N = search.x_BD.new_full((num_places,), num_latents, dtype=torch.int64)
    begins, num_found = [], torch.zeros_like(latents_N[:1])
    for (block,) in search.rows():
        floor_b1 = floor_B1[block.row : block.row + len(block.z_bf)]
        given = block.z_bf, block.maxima_bg, floor_b1.flatten(), block.reach(floor_b1)
        offsets_b = kernels.entries_in(latents_N, *given, num_found)
        begins.append(offsets_b[:-1])
        num_found = offsets_b[-1:]
    room.start_telling(num_found[0])
    offsets_B = torch.cat([*begins, num_found]).clamp_max(num_places)
    num_lost = (num_found[0] - num_places).clamp_min(0)
    return SparsePattern(offsets_B, latents_N, num_latents, num_lost=num_lost)


def _reaching(search: _Search, floor_B1: Tensor, limit: int) -> _Candidates | None:
    """All that may reach the floors, if they are within the limit."""
    found, num_found = [], 0
    for blocks in search.rows():
        in_rows = []
        for block in blocks:
            in_rows.append(block.may_reach(floor_B1[block.row : block.row + len(block.z_bf)]))
            num_found += len(in_rows[-1].row_N)
            if num_found > limit:
                return None
        found.append(_by_row(in_rows))
    return _joined(found)


def all_above(x_BD: Tensor, encoder: Encoder, floor_F: Tensor) -> tuple[SparsePattern, Tensor]:
    """All entries greater than their latent's floor, however many they are."""
    found = threshold_candidates(x_BD, encoder, floor_F, limit=len(x_BD) * len(floor_F))
    assert found is not None
    return found


def _by_row(found: list[_Candidates]) -> _Candidates:
    """What was found in blocks of latents of the same rows, row by row."""
    candidates = _joined(found)
    return candidates.at(candidates.row_N.argsort(stable=True)) if len(found) > 1 else candidates


def _joined(found: list[_Candidates]) -> _Candidates:
    return _Candidates(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _pattern(candidates: _Candidates, x_BD: Tensor, encoder: Encoder) -> SparsePattern:
    return SparsePattern.from_rows(
        candidates.row_N, candidates.latent_N, len(x_BD), len(encoder.W_FD)
    )
