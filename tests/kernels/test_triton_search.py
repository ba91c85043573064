"""The k largest of each row in Triton against their specification: ties, NaN, several rounds."""

import pytest
import torch
from torch import Tensor

from sae_dist.kernels import Encoder, search
from tests.kernels import reference

triton_search = pytest.importorskip(
    "sae_dist.kernels.triton_search", reason="needs triton", exc_type=ImportError
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
F = 100


def drawn(name: str, num_rows: int = 3, width: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """x, W and b, hard for a search that rounds them, of numbers whose sums are exact."""
    generator = torch.Generator().manual_seed(1)

    def eighths(*shape: int, most: int = 40) -> Tensor:
        return torch.randint(-most, most + 1, shape, generator=generator) / 8

    x_BD, W_FD, b_F = eighths(num_rows, width), eighths(F, width), eighths(F)
    changed = {
        "random": (x_BD, W_FD, b_F),
        "ties": (x_BD.sign(), W_FD.sign(), torch.zeros(F)),
        "all equal": (x_BD, W_FD[:1].expand(F, -1), torch.full((F,), 100.0)),
        "nearly equal": (x_BD, W_FD[:1] + 2.0**-9 * W_FD.sign(), torch.full((F,), 100.0)),
        "few positive": (x_BD.abs(), -W_FD.abs(), b_F.masked_fill(torch.arange(F) % 30 == 7, 500)),
        "rows of nan and zero": (x_BD, W_FD, torch.zeros(F)),
    }[name]
    if name.startswith("rows of"):
        x_BD[0, 3], x_BD[1] = torch.nan, 0.0
    return tuple(v.to(DEVICE).contiguous() for v in changed)


def found(x_BD: Tensor, W_FD: Tensor, b_F: Tensor, k: int, **form: bool) -> tuple[Tensor, Tensor]:
    encoder = Encoder.of(W_FD, b_F, **form)
    blocks = search._Search(encoder, x_BD, b_F)
    ((block,),) = blocks.rows()
    given = block.z_bf.bfloat16(), block.maxima_bg, block.bound
    return triton_search.topk(x_BD, W_FD, b_F, *given, k, is_exact=encoder.is_exact)


@pytest.fixture(autouse=True)
def bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Search in bfloat16 on any processor."""
    monkeypatch.setattr(search, "search_dtype", lambda W_FD: torch.bfloat16)
    monkeypatch.setattr(search, "rounded_dtype", lambda W_FD: torch.bfloat16)


@pytest.mark.parametrize("k", [1, 5, 99])
@pytest.mark.parametrize(
    "name",
    ["random", "ties", "all equal", "nearly equal", "few positive", "rows of nan and zero"],
)
def test_the_k_largest_are_those_of_stable_sorting(name: str, k: int) -> None:
    x_BD, W_FD, b_F = drawn(name)
    values_BK, latents_BK = found(x_BD, W_FD, b_F, k)
    expected = reference.topk(x_BD, W_FD, b_F, k)
    assert latents_BK.dtype == torch.int64
    assert torch.equal(latents_BK, expected[1])
    torch.testing.assert_close(values_BK, expected[0], rtol=0.0, atol=0.0)


@pytest.mark.parametrize("name", ["random", "ties", "nearly equal"])
def test_what_finds_no_room_is_ranked_in_further_rounds(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(triton_search, "_LEAST_ROOM", 64)
    monkeypatch.setattr(triton_search, "_TILE_GROUPS", 1)
    x_BD, W_FD, b_F = drawn(name)
    values_BK, latents_BK = found(x_BD, W_FD, b_F, 4)
    expected = reference.topk(x_BD, W_FD, b_F, 4)
    assert torch.equal(latents_BK, expected[1]) and torch.equal(values_BK, expected[0])


def test_without_the_bound_what_ranks_first_in_the_search_is_ranked_exactly() -> None:
    x_BD, W_FD, b_F = drawn("random")
    values_BK, latents_BK = found(x_BD, W_FD, b_F, 5, is_exact=False)
    z_BF = x_BD @ W_FD.T + b_F
    rounded_BF, _ = reference.product(x_BD.bfloat16(), W_FD.bfloat16(), b_F.bfloat16().float())
    floor_B1 = rounded_BF.float().topk(5, dim=1).values[:, -1:]
    ranked_BF = z_BF.where(rounded_BF.float() >= floor_B1, -torch.inf)
    assert torch.equal(latents_BK, ranked_BF.topk(5, dim=1).indices.sort(1).values)
    assert torch.equal(values_BK, z_BF.gather(1, latents_BK))
