"""The bound on a product of rounded rows holds, and leaves what it is said to leave."""

import pytest
import torch
from torch import Tensor

from benchmarks.cheaper_search import entries_left, rotation
from benchmarks.figures import Figure
from benchmarks.products import FORMATS, PRODUCTS, product_rates

B, D, F, K = 64, 48, 512, 8


def rows(num: int, seed: int) -> Tensor:
    return torch.randn(num, D, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("outlier", [1.0, 50.0])
def test_no_product_is_further_off_than_the_bound(name: str, outlier: float) -> None:
    x_BD, W_FD, b_F = rows(B, 0), rows(F, 1), torch.linspace(-1, 1, F)
    x_BD[:, 3] *= outlier
    number, share = entries_left(x_BD, W_FD, b_F, K, FORMATS[name])
    assert K <= number <= F and share <= 1.0


def test_coarser_formats_leave_more_entries_and_a_rotation_helps_against_outliers() -> None:
    x_BD, W_FD, b_F = rows(B, 0), rows(F, 1), torch.zeros(F)
    x_BD[:, 3] *= 50
    W_FD[:, 3] /= 50
    left = {n: entries_left(x_BD, W_FD, b_F, K, form)[0] for n, form in FORMATS.items()}
    assert left["float32"] < left["bfloat16"] < left["int8"] < left["int7 by int8"]
    R_DD = rotation(D)
    torch.testing.assert_close(R_DD @ R_DD.T, torch.eye(D), atol=1e-5, rtol=0)
    rotated = entries_left(x_BD @ R_DD, W_FD @ R_DD, b_F, K, FORMATS["int8"])[0]
    assert rotated < left["int8"] / 2


def test_a_product_of_integers_is_exact_or_called_wrong() -> None:
    found = dict(zip(PRODUCTS, product_rates(rows(B, 0), rows(F, 1)), strict=True))
    assert all(name == expected for (expected, _), (name, _) in found.items())
    figures = {key: figure for key, (_, figure) in found.items()}
    assert all(isinstance(figure, Figure) and figure.value > 0 for figure in figures.values())
    exact = {("int8", "torch._int_mm"), ("int7 by int8", "oneDNN")} & PRODUCTS.keys()
    assert not any(figures[key].name.endswith("wrong") for key in exact)
