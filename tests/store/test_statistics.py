from collections.abc import Iterator

import numpy as np
import pytest
import torch

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
