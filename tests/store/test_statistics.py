from collections.abc import Iterator

import numpy as np
import pytest
import torch

from sae_dist.store.records import Statistics
from sae_dist.store.unit import statistics_of


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("width", [3, 512, 40_000, 140_000])
def test_sums_do_not_depend_on_the_number_of_threads(
    four_threads: None, width: int, dtype: torch.dtype
) -> None:
    shape = (4, 1 + 2**18 // width // 4, width)
    x_NSD = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    trainable_NS = torch.arange(x_NSD[..., 0].numel()).view(shape[:2]) % 5 != 0
    many = statistics_of(x_NSD, trainable_NS, 0)
    torch.set_num_threads(1)
    one = statistics_of(x_NSD, trainable_NS, 0)
    assert np.array_equal(many.sum, one.sum)
    assert (many.sum_square, many.count) == (one.sum_square, one.count)
    x_TD = x_NSD[trainable_NS].double().numpy()
    assert np.all(np.abs(one.sum - x_TD.sum(0)) <= 1e-6 * np.abs(x_TD).sum(0))
    np.testing.assert_allclose(one.sum_square, (x_TD**2).sum(), rtol=1e-5)


def test_statistics_of_parts_add_up() -> None:
    x_NSD = torch.randn(100, 8, 500, generator=torch.Generator().manual_seed(0))
    trainable_NS = torch.rand(100, 8, generator=torch.Generator().manual_seed(1)) < 0.9
    whole = statistics_of(x_NSD, trainable_NS, 0)
    each = zip(x_NSD.split(30), trainable_NS.split(30), strict=True)
    together = sum((statistics_of(*part, 0) for part in each), Statistics.zero(500))
    assert together.count == whole.count
    np.testing.assert_allclose(together.sum, whole.sum, rtol=0, atol=1e-4)
    assert together.sum_square == pytest.approx(whole.sum_square, rel=1e-6)


def test_squares_beyond_float32_are_summed() -> None:
    statistics = statistics_of(torch.full((2, 1, 3), 1e30), torch.ones(2, 1, dtype=torch.bool), 0)
    assert statistics.mean_square == pytest.approx(3e60, rel=1e-6)
