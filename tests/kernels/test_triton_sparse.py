"""Sparse arithmetic in Triton against its dense specification: long segments, empty ones."""

import pytest
import torch
from torch import Tensor

from sae_dist.kernels.pattern import SparsePattern
from tests.kernels import reference

triton_sparse = pytest.importorskip(
    "sae_dist.kernels.triton_sparse", reason="needs triton", exc_type=ImportError
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def drawn(num_rows: int, width: int, num_latents: int, density: float) -> tuple[Tensor, ...]:
    """A mask, values of its entries, rows and weights; the last row and latent have no entries."""
    generator = torch.Generator().manual_seed(num_rows + num_latents)
    mask_BF = torch.rand(num_rows, num_latents, generator=generator) < density
    if num_rows > 1 and num_latents > 1:
        mask_BF[-1], mask_BF[:, -1] = False, False
    values_N = torch.randn(int(mask_BF.sum()), generator=generator)
    u_BD = torch.randn(num_rows, width, generator=generator)
    W_FD = torch.randn(num_latents, width, generator=generator)
    return mask_BF.to(DEVICE), values_N.to(DEVICE), u_BD.to(DEVICE), W_FD.to(DEVICE)


def coded(mask_BF: Tensor) -> SparsePattern:
    return SparsePattern.from_rows(*mask_BF.nonzero(as_tuple=True), *mask_BF.shape)


@pytest.mark.parametrize(
    ("shape", "density", "dtype"),
    [
        ((1, 7, 1), 1.0, torch.float32),
        ((5, 24, 31), 0.0, torch.float32),
        ((5, 24, 31), 1.0, torch.bfloat16),
        ((9, 100, 33), 0.1, torch.float32),
        ((1, 100, 257), 0.2, torch.float32),
        ((9, 7, 100), 0.05, torch.bfloat16),
        ((33, 128, 96), 0.1, torch.float32),  # aligned, as in production
        ((5, 700, 31), 0.2, torch.float32),  # rows wider than a program's tile
    ],
    ids=str,
)
def test_sums_and_products_of_entries(
    shape: tuple[int, int, int], density: float, dtype: torch.dtype
) -> None:
    mask_BF, values_N, u_BD, W_FD = drawn(*shape, density)
    W_FD, code = W_FD.to(dtype), coded(mask_BF)
    exact_N, exact_BD = values_N.double(), u_BD.double()
    for found, expected in [
        (triton_sparse.spmm(values_N, W_FD, code), reference.spmm(exact_N, W_FD, code)),
        (triton_sparse.sddmm(u_BD, W_FD, code), reference.sddmm(exact_BD, W_FD, code)),
        (
            triton_sparse.spmm_t(values_N, u_BD, code),
            reference.spmm_t(exact_N, u_BD, code),
        ),
    ]:
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, **CLOSE)


def test_the_sums_of_latents_with_entries_are_those_of_all() -> None:
    mask_BF, values_N, u_BD, _ = drawn(9, 24, 40, 0.05)
    code = coded(mask_BF)
    assert 0 < len(code.present_R) < 40
    all_FD = triton_sparse.spmm_t(values_N, u_BD, code)
    found_RD = triton_sparse.spmm_t(values_N, u_BD, code, present_only=True)
    assert torch.equal(found_RD, all_FD[code.present_R])
    expected_RD = reference.spmm_t(values_N, u_BD, code, present_only=True)
    torch.testing.assert_close(found_RD, expected_RD, **CLOSE)


def test_places_that_are_no_entries_add_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_sparse, "_PIECE", 4)
    u_BD, W_FD = drawn(3, 24, 40, 0.0)[2:]
    latents_BK = torch.tensor([[3, 7, 40], [7, 40, 40], [0, 7, 39]], device=DEVICE)
    listed = SparsePattern.from_lists(latents_BK, 40)
    values_N = torch.arange(1.0, 10.0, device=DEVICE).where(listed.latents_N < 40, -torch.inf)
    joined, joined_N = listed.keep_in(listed.latents_N < 40, values_N, 8)
    for code, values in ((listed, values_N), (joined, joined_N)):
        exact, exact_n = code.without_room(values)
        assert exact.latents_N.tolist() == [3, 7, 7, 0, 7, 39]
        assert exact_n.tolist() == [1, 2, 4, 7, 8, 9]
        found_BD = triton_sparse.spmm(values, W_FD, code)
        torch.testing.assert_close(found_BD, reference.spmm(exact_n, W_FD, exact), **CLOSE)
        dots = triton_sparse.sddmm(u_BD, W_FD, code)
        is_entry = code.latents_N < 40
        torch.testing.assert_close(dots[is_entry], reference.sddmm(u_BD, W_FD, exact), **CLOSE)
        assert not dots[~is_entry].any()
        found_RD = triton_sparse.spmm_t(values, u_BD, code, present_only=True)
        is_row_R = code.present_R < 40
        assert code.present_R[is_row_R].tolist() == [0, 3, 7, 39]
        expected_RD = reference.spmm_t(exact_n, u_BD, exact, present_only=True)
        torch.testing.assert_close(found_RD[is_row_R], expected_RD, **CLOSE)
        values_F = W_FD[:, 0]
        found_D = triton_sparse.centre_gradient(values_F, W_FD, code)
        expected_D = reference.centre_gradient(values_F, W_FD, exact)
        torch.testing.assert_close(found_D, expected_D, **CLOSE)


@pytest.mark.parametrize("num_latents", [6, 40], ids=["fewer latents than places", "more"])
@pytest.mark.parametrize("is_unit", [True, False])
def test_gradients_of_rows_in_places(
    num_latents: int, is_unit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_sparse, "_PIECE", 2)
    u_BD, W_FD = drawn(5, 600, num_latents, 0.0)[2:]
    none, last = num_latents, num_latents - 1
    listed = [[1, 3, none], [3, last, none], [3, none, none], [0, 3, last], [3, none, none]]
    code = SparsePattern.from_lists(torch.tensor(listed, device=DEVICE), num_latents)
    values_N = torch.arange(1.0, 16.0, device=DEVICE).where(code.latents_N < none, -torch.inf)
    for found, expected in zip(
        code.runs, reference.latent_runs(code.latents_N, num_latents), strict=True
    ):
        assert torch.equal(found, expected)
    assert code.runs.counts_F.tolist() == code.runs.offsets_F.diff().tolist()
    unit_FD = torch.nn.functional.normalize(W_FD, dim=1) if is_unit else None
    found = triton_sparse.row_gradient(values_N, u_BD, code, unit_FD)
    expected = reference.row_gradient(values_N, u_BD, code, unit_FD)
    is_row_R = code.present_R < num_latents
    torch.testing.assert_close(found[0][is_row_R], expected[0][is_row_R], **CLOSE)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found[2], expected[2], **CLOSE)


@pytest.mark.parametrize("piece", [1, 4, 8, 9])
def test_long_segments_are_added_piece_by_piece(
    monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(triton_sparse, "_PIECE", piece)
    mask_BF, values_N, u_BD, W_FD = drawn(10, 7, 5, 0.5)
    mask_BF[:-1, 3] = True  # of 9 entries: one more than a piece, one piece and a rest
    mask_BF[:, 0], mask_BF[2] = False, False
    values_N = torch.linspace(-1, 1, int(mask_BF.sum()), device=DEVICE)
    code = coded(mask_BF)
    torch.testing.assert_close(
        triton_sparse.spmm_t(values_N, u_BD, code),
        reference.spmm_t(values_N, u_BD, code),
        **CLOSE,
    )
    torch.testing.assert_close(
        triton_sparse.spmm(values_N, W_FD, code),
        reference.spmm(values_N, W_FD, code),
        **CLOSE,
    )


def test_a_latent_that_always_fires() -> None:
    mask_BF = torch.zeros(1300, 3, dtype=torch.bool, device=DEVICE)
    mask_BF[:, 1], mask_BF[7, 2] = True, True
    _, values_N, u_BD, _ = drawn(1300, 7, 3, 1.0)
    values_N, code = values_N[: len(mask_BF) + 1], coded(mask_BF)
    found_FD = triton_sparse.spmm_t(values_N, u_BD, code)
    expected_FD = reference.spmm_t(values_N.double(), u_BD, code)
    torch.testing.assert_close(found_FD.double(), expected_FD, rtol=1e-5, atol=1e-4)
    assert torch.equal(found_FD, triton_sparse.spmm_t(values_N, u_BD, code))


def test_everything_is_the_same_again() -> None:
    mask_BF, values_N, u_BD, W_FD = drawn(5, 24, 33, 0.3)
    first, second = (
        (
            triton_sparse.spmm(values_N, W_FD, coded(mask_BF)),
            triton_sparse.sddmm(u_BD, W_FD, coded(mask_BF)),
            triton_sparse.spmm_t(values_N, u_BD, coded(mask_BF)),
        )
        for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
