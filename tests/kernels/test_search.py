"""The search misses nothing, whatever bfloat16 makes of the weights and however it is cut."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from sae_dist.coders import top_k_entries
from sae_dist.coders.collectives import SingleProcess
from sae_dist.kernels import Encoder, dispatch, search, threshold_candidates, topk_candidates

B, D, F = 13, 48, 101
BLOCKS = [(1 << 23, 1 << 17), (64, 16), (500, 37)]


@pytest.fixture(params=BLOCKS, ids=str)
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cut into blocks."""
    monkeypatch.setitem(search._BLOCK_VALUES, "cpu", request.param[0])
    monkeypatch.setitem(search._BLOCK_LATENTS, "cpu", request.param[1])


@pytest.fixture
def bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Search in bfloat16 on any processor."""
    monkeypatch.setattr(search, "search_dtype", lambda W_FD: torch.bfloat16)


def inputs() -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """x, W and b in float32, hard for a search that rounds them."""
    generator = torch.Generator().manual_seed(0)
    x_BD, W_FD, b_F = (torch.randn(n, D, generator=generator) for n in (B, F, F))
    b_F = b_F[:, 0]
    scale_F1 = torch.logspace(-3, 3, F)[:, None]
    return {
        "random": (x_BD, W_FD, b_F),
        "latents of all norms": (x_BD, W_FD * scale_F1, b_F),
        "rows of all norms": (x_BD * torch.logspace(-3, 3, B)[:, None], W_FD, b_F),
        "large biases": (x_BD, W_FD, 1000 + b_F),
        "nearly equal latents": (x_BD, W_FD[:1] + 1e-4 * W_FD, torch.zeros(F)),
        "ties": ((2 * x_BD).round(), (2 * W_FD).round(), b_F.round()),
        "none positive": (x_BD.abs(), -W_FD.abs(), -b_F.abs()),
        "zeros": (torch.zeros(B, D), torch.zeros(F, D), torch.zeros(F)),
    }


def exact(x_BD: Tensor, W_FD: Tensor, b_F: Tensor) -> Tensor:
    """z in float64."""
    return x_BD.double() @ W_FD.double().T + b_F.double()


def assert_valued(found: tuple[search.SparsePattern, Tensor], z_BF: Tensor) -> Tensor:
    """The values found are those of float32, row by row, each entry once; a mask of them."""
    code, z_N = found
    mask_BF = torch.zeros(B, F, dtype=torch.bool)
    mask_BF[code.rows_N, code.latents_N] = True
    assert torch.equal(torch.stack([code.rows_N, code.latents_N], 1), mask_BF.nonzero())
    torch.testing.assert_close(z_N.double(), z_BF[mask_BF], rtol=1e-4, atol=1e-3)
    return mask_BF


@pytest.mark.usefixtures("blocks", "bfloat16")
@pytest.mark.parametrize("k", [1, 2, 6, 60, F])
@pytest.mark.parametrize("name", inputs())
def test_no_entry_that_reaches_the_kth_largest_is_missed(name: str, k: int) -> None:
    x_BD, W_FD, b_F = inputs()[name]
    z_BF = exact(x_BD, W_FD, b_F)
    mask_BF = assert_valued(topk_candidates(x_BD, Encoder.of(W_FD, b_F), k), z_BF)
    kth_B1 = z_BF.topk(k, dim=1).values[:, -1:].clamp_min(0)
    assert bool(mask_BF[(z_BF >= kth_B1) & (z_BF > 0)].all())


@pytest.mark.usefixtures("bfloat16")
def test_the_search_leaves_most_entries_out() -> None:
    x_BD, W_FD, b_F = inputs()["random"]
    code, _ = topk_candidates(x_BD, Encoder.of(W_FD, b_F), 2)
    assert len(code.latents_N) < 5 * B


@pytest.mark.slow  # a matrix of a gigabyte
@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize("k", [32, 128])
def test_at_most_two_and_a_half_k_values_of_a_row_are_computed_exactly(
    k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(search._BLOCK_LATENTS, "cpu", 1 << 16)  # two blocks, as on a GPU
    generator = torch.Generator().manual_seed(0)
    x_BD = torch.randn(64, 2304, generator=generator)
    W_FD = normalize(torch.randn(1 << 17, 2304, generator=generator), dim=1)
    counts = []

    def counted(u_BD: Tensor, W_FD: Tensor, code: search.SparsePattern) -> Tensor:
        counts.append(len(code.latents_N))
        return sddmm(u_BD, W_FD, code)

    sddmm = dispatch.sddmm
    monkeypatch.setattr(dispatch, "sddmm", counted)
    topk_candidates(x_BD, Encoder.of(W_FD, torch.zeros(len(W_FD))), k)
    assert k * len(x_BD) <= sum(counts) <= 2.5 * k * len(x_BD)


@pytest.mark.usefixtures("blocks", "bfloat16")
@pytest.mark.parametrize("name", inputs())
def test_all_above_a_floor_are_found(name: str) -> None:
    x_BD, W_FD, b_F = inputs()[name]
    floor_F = torch.linspace(-1, 30, F)
    z_BF = exact(x_BD, W_FD, b_F)
    found = threshold_candidates(x_BD, Encoder.of(W_FD, b_F), floor_F, limit=B * F)
    assert found is not None
    mask_BF = assert_valued(found, z_BF)
    surely_BF = (z_BF - floor_F).abs() > 1e-3
    assert torch.equal(mask_BF & surely_BF, (z_BF > floor_F) & surely_BF)


@pytest.mark.usefixtures("bfloat16")
def test_nothing_is_missed_of_rows_whose_squares_underflow() -> None:
    x_BD, W_FD, b_F = inputs()["random"]
    x_BD, b_F = x_BD * 2.0**-100, b_F * 2.0**-100
    z_BF = exact(x_BD, W_FD, b_F)
    floor_F = (0.9999 * z_BF.sort(0).values[9]).clamp_min(1e-33).float()
    code, _ = threshold_candidates(x_BD, Encoder.of(W_FD, b_F), floor_F, limit=B * F)
    mask_BF = torch.zeros(B, F, dtype=torch.bool)
    mask_BF[code.rows_N, code.latents_N] = True
    assert torch.equal(mask_BF, z_BF > floor_F)


@pytest.mark.usefixtures("blocks")
def test_more_than_the_limit_is_none() -> None:
    x_BD, W_FD, b_F = (v.double() for v in inputs()["random"])
    floor_F = torch.zeros(F, dtype=torch.float64)
    num_above = int((exact(x_BD, W_FD, b_F) > 0).sum())
    assert threshold_candidates(x_BD, Encoder.of(W_FD, b_F), floor_F, limit=num_above) is not None
    assert threshold_candidates(x_BD, Encoder.of(W_FD, b_F), floor_F, limit=num_above - 1) is None


@pytest.mark.usefixtures("bfloat16")
def test_a_row_of_nan_finds_nothing_and_harms_no_other() -> None:
    x_BD, W_FD, b_F = inputs()["random"]
    code, _ = topk_candidates(x_BD, Encoder.of(W_FD, b_F), 4)
    expected_B = code.offsets_B.diff()
    expected_B[3] = 0
    x_BD[3, 0] = torch.nan
    code, _ = topk_candidates(x_BD, Encoder.of(W_FD, b_F), 4)
    assert torch.equal(code.offsets_B.diff(), expected_B)


@pytest.mark.usefixtures("bfloat16")
def test_values_do_not_depend_on_the_slice() -> None:
    x_BD, W_FD, b_F = inputs()["random"]
    code, z_N = topk_candidates(x_BD, Encoder.of(W_FD, b_F), F)
    part, part_z_N = topk_candidates(x_BD[4:], Encoder.of(W_FD[:50], b_F[:50]), 50)
    whole_BF = torch.zeros(B, F).index_put((code.rows_N, code.latents_N), z_N)
    assert torch.equal(whole_BF[4:, :50][part.rows_N, part.latents_N], part_z_N)


def selected(found: tuple[search.SparsePattern, Tensor], num_rows: int, k: int) -> Tensor:
    """Which are the k largest of their row, whatever else a processor found [B, F]."""
    code, z_N = found
    kept_N = top_k_entries(code, z_N, k, SingleProcess())
    mask_BF = torch.zeros(num_rows, F, dtype=torch.bool)
    mask_BF[code.rows_N[kept_N].cpu(), code.latents_N[kept_N].cpu()] = True
    return mask_BF


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize("name", ["ties", "latents of all norms"])
def test_the_search_finds_the_same_through_triton(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x_BD, W_FD, b_F = inputs()[name]
    x_BD = x_BD[:5]  # the interpreter takes a while for each row
    monkeypatch.setattr(dispatch, "_on_triton", lambda x: False)
    expected = topk_candidates(x_BD, Encoder.of(W_FD, b_F), 6)
    expected_above = threshold_candidates(x_BD, Encoder.of(W_FD, b_F), b_F, B * F)
    monkeypatch.setattr(dispatch, "_on_triton", lambda x: True)
    x_BD, W_FD, b_F = x_BD.to(device), W_FD.to(device), b_F.to(device)
    found = topk_candidates(x_BD, Encoder.of(W_FD, b_F), 6)
    assert torch.equal(selected(found, 5, 6), selected(expected, 5, 6))
    found_above = threshold_candidates(x_BD, Encoder.of(W_FD, b_F), b_F, B * F)
    assert expected_above is not None and found_above is not None
    assert torch.equal(found_above[0].latents_N.cpu(), expected_above[0].latents_N)
