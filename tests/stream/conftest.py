from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sae_dist.store import Store, write_store

NUM_SEQUENCES, POSITIONS = 400, 4


@pytest.fixture(scope="session")
def acts() -> torch.Tensor:
    """The site `in` [400, 4, 6]; the site `out` is twice its first three columns."""
    return torch.randn(
        NUM_SEQUENCES, POSITIONS, 6, generator=torch.Generator().manual_seed(0)
    ).bfloat16()


@pytest.fixture(scope="session")
def trainable() -> torch.Tensor:
    return torch.rand(NUM_SEQUENCES, POSITIONS, generator=torch.Generator().manual_seed(1)) < 0.8


@pytest.fixture(scope="session")
def store(
    tmp_path_factory: pytest.TempPathFactory, acts: torch.Tensor, trainable: torch.Tensor
) -> Iterator[Store]:
    """A store of 20 shards of 20 sequences, 2 of them held out, in chunks of 20 rows."""
    sequence_mib = POSITIONS * 9 * 2 / 2**20
    yield write_store(
        Path(tmp_path_factory.mktemp("stream")) / "store",
        {"in": acts, "out": acts[..., :3] * 2},
        input_ids=torch.arange(NUM_SEQUENCES * POSITIONS).reshape(NUM_SEQUENCES, POSITIONS) + 7,
        trainable=trainable,
        held_out=0.1,
        chunk_mib=5.5 * sequence_mib,
        shard_mib=20.5 * sequence_mib,
    )
