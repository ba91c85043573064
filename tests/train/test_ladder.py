"""What is told of a ladder's activations before it trains."""

from pathlib import Path

import pytest
import torch

from sae_dist.coders import long_tokens
from sae_dist.store import write_store
from tests.processes import alone
from tests.train.ladders import rung, training_run


def rows(num_long: int, times: float) -> torch.Tensor:
    """Rows of norm 1 [1000, 16], the first few longer."""
    x_ND = torch.randn(1000, 16, generator=torch.Generator().manual_seed(0))
    x_ND = torch.nn.functional.normalize(x_ND)
    x_ND[:num_long] *= times
    return x_ND


def test_long_tokens_are_counted_with_their_share_of_the_squares() -> None:
    assert long_tokens(rows(10, 30.0), 8) == pytest.approx((0.01, 9000 / 9990), abs=1e-5)
    assert long_tokens(rows(10, 7.9), 8) == (0.0, 0.0)


@pytest.mark.parametrize(("num_long", "is_told"), [(0, False), (5, True), (200, False)])
def test_a_few_tokens_that_outweigh_the_others_are_told(
    num_long: int, is_told: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    acts = {"in": rows(num_long, 30.0)}
    store = write_store(tmp_path / "store", acts, dtype="float32", held_out=0.0)
    training_run(alone(), store.path, tmp_path / "run", [rung("topk")], steps=1)
    assert ("writer.max_norm=8" in capsys.readouterr().err) is is_told
