"""The product and its entries in Triton against their specification: ties, NaN, infinities."""

import pytest
import torch
from torch import Tensor

from tests.kernels import reference

triton_product = pytest.importorskip(
    "sae_dist.kernels.triton_product", reason="needs triton", exc_type=ImportError
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ALIGNED = (130, 2304, 1056) if DEVICE == "cuda" else (17, 128, 96)  # as in production
SHAPES = [(1, 7, 1), (5, 24, 31), (33, 100, 33), (1, 100, 257), (5, 7, 100), ALIGNED]
SAME = {"rtol": 0.0, "atol": 0.0, "equal_nan": True}


def operands(num_rows: int, width: int, num_latents: int) -> tuple[Tensor, Tensor, Tensor]:
    """x, W and b in eighths, so that sums are exact in any order, and often ties when rounded."""
    generator = torch.Generator().manual_seed(num_rows + width + num_latents)

    def eighths(*shape: int) -> Tensor:
        return (torch.randint(-40, 41, shape, generator=generator) / 8).to(DEVICE)

    x_BD, W_FD = eighths(num_rows, width), eighths(num_latents, width)
    return x_BD.bfloat16(), W_FD.bfloat16(), eighths(num_latents)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_product_and_its_maxima(shape: tuple[int, int, int]) -> None:
    given = operands(*shape)
    found_z, found_maxima = triton_product.product(*given)
    expected_z, expected_maxima = reference.product(*given)
    assert found_z.dtype == torch.bfloat16 and found_maxima.dtype == torch.float32
    torch.testing.assert_close(found_z, expected_z, **SAME)
    torch.testing.assert_close(found_maxima, expected_maxima, **SAME)


def test_nan_and_infinity_reach_only_their_groups_maxima() -> None:
    x_BD, W_FD, b_F = operands(5, 24, 100)
    x_BD[3, 5] = torch.nan
    b_F[33], b_F[40], b_F[64:96] = torch.nan, torch.inf, -torch.inf
    found_z, found_maxima = triton_product.product(x_BD, W_FD, b_F)
    expected_z, expected_maxima = reference.product(x_BD, W_FD, b_F)
    torch.testing.assert_close(found_z, expected_z, **SAME)
    torch.testing.assert_close(found_maxima, expected_maxima, **SAME)
    assert found_maxima[0].isnan().tolist() == [False, True, False, False]
    assert found_maxima[0, 2] == -torch.inf and found_maxima[3].isnan().all()


def test_a_product_is_the_same_again() -> None:
    generator = torch.Generator().manual_seed(0)
    x_BD = torch.randn(17, 40, generator=generator).bfloat16().to(DEVICE)
    W_FD = torch.randn(100, 40, generator=generator).bfloat16().to(DEVICE)
    b_F = torch.randn(100, generator=generator).to(DEVICE)
    (z_BF, maxima_BG), again = (triton_product.product(x_BD, W_FD, b_F) for _ in range(2))
    torch.testing.assert_close(z_BF.float(), x_BD.float() @ W_FD.float().T + b_F, rtol=0.01, atol=1)
    assert torch.equal(z_BF, again[0]) and torch.equal(maxima_BG, again[1])


def test_no_rows_have_no_product_and_no_entries() -> None:
    x_BD, W_FD, b_F = operands(1, 7, 100)
    z_BF, maxima_BG = triton_product.product(x_BD[:0], W_FD, b_F)
    assert z_BF.shape == (0, 100) and maxima_BG.shape == (0, 4)
    rows_N, latents_N = triton_product.entries(z_BF, maxima_BG, b_F[:0], maxima_BG)
    assert rows_N.shape == latents_N.shape == (0,)


def check_entries(z_BF: Tensor, floor_B: Tensor, error_bound_BG: Tensor) -> tuple[Tensor, Tensor]:
    """What `entries` finds, which must be what the specification finds."""
    full_BF = torch.nn.functional.pad(z_BF.float(), (0, -z_BF.shape[1] % 32), value=-torch.inf)
    maxima_BG = full_BF.unflatten(1, (-1, 32)).amax(2)
    found = triton_product.entries(z_BF, maxima_BG, floor_B, error_bound_BG)
    expected = reference.entries(z_BF, maxima_BG, floor_B, error_bound_BG)
    assert found[0].dtype == found[1].dtype == torch.int64
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    return found


@pytest.mark.parametrize("shape", [(1, 7, 1), (3, 7, 33), (2, 7, 257)], ids=str)
def test_entries_come_row_by_row_ties_included(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int]
) -> None:
    monkeypatch.setattr(triton_product, "_SPAN", 4)
    monkeypatch.setattr(triton_product, "_TILE", 2)
    generator = torch.Generator().manual_seed(1)
    num_rows, _, num_latents = shape
    z_BF = torch.randint(-4, 5, (num_rows, num_latents), generator=generator).bfloat16()
    error_bound_BG = torch.randint(0, 3, (num_rows, -(-num_latents // 32)), generator=generator) / 2
    floor_B = torch.randint(-5, 7, (num_rows,), generator=generator) / 2
    check_entries(z_BF.to(DEVICE), floor_B.to(DEVICE), error_bound_BG.to(DEVICE))


def test_a_floor_may_keep_all_or_none_and_nan_is_never_an_entry() -> None:
    z_BF = torch.linspace(-3, 3, 3 * 100).view(3, 100).bfloat16().to(DEVICE)
    z_BF[:, 5], z_BF[:, 40], z_BF[:, 70] = torch.nan, -torch.inf, torch.inf
    error_bound_BG = torch.full((3, 4), 0.25, device=DEVICE)
    floor_B = torch.tensor([-torch.inf, torch.nan, 100.0], device=DEVICE)
    rows_N, latents_N = check_entries(z_BF, floor_B, error_bound_BG)
    assert rows_N.tolist() == [0] * 99 + [2] and latents_N[-1] == 70 and 5 not in latents_N


def test_the_spans_and_tiles_of_wide_rows() -> None:
    num_latents = 32 * 1100 + 5  # more than one span of groups
    z_BF = torch.zeros(2, num_latents, dtype=torch.bfloat16, device=DEVICE)
    z_BF[0, [31, 32, 3000]], z_BF[1, [32 * 1024, num_latents - 1]] = 1.0, 1.0
    error_bound_BG = torch.zeros(2, 1101, device=DEVICE)
    rows_N, latents_N = check_entries(z_BF, torch.ones(2, device=DEVICE), error_bound_BG)
    assert rows_N.tolist() == [0, 0, 0, 1, 1]
    assert latents_N.tolist() == [31, 32, 3000, 32 * 1024, num_latents - 1]


def test_a_group_whose_maximum_falls_short_is_not_read() -> None:
    z_BF = torch.ones(1, 64, dtype=torch.bfloat16, device=DEVICE)
    maxima_BG = torch.tensor([[-1.0, 1.0]], device=DEVICE)
    found = triton_product.entries(
        z_BF, maxima_BG, torch.zeros(1, device=DEVICE), torch.zeros(1, 2, device=DEVICE)
    )
    assert found[1].tolist() == list(range(32, 64))
