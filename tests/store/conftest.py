from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from sae_dist.common.dtypes import FloatDtype, to_storage
from sae_dist.store import StoreConfig, StoreWriter

POSITIONS, WIDTHS, SEQUENCES = 4, {"in.0": 6, "out.0": 3}, 23


class Data:
    """Activations and tokens of a small store: 23 sequences in shards of 6."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.acts = {
            site: torch.randn(SEQUENCES, POSITIONS, width, generator=generator)
            for site, width in WIDTHS.items()
        }
        self.ids = np.arange(SEQUENCES * POSITIONS, dtype=np.int32).reshape(SEQUENCES, POSITIONS)
        self.trainable = self.ids % 5 != 0

    def blocks(self, size: int = 5) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, SEQUENCES, size):
            yield self.ids[start : start + size], self.trainable[start : start + size]

    def shard(self, writer: StoreWriter, unit: int) -> dict[str, np.ndarray]:
        rows = writer.layout.sequences_of(unit)
        return {
            site: to_storage(x[rows.start : rows.stop], writer.dtype)
            for site, x in self.acts.items()
        }

    def fill(self, writer: StoreWriter) -> None:
        """What a harvest does, from wherever it was stopped."""
        if not writer.tokens_ready():
            writer.write_tokens(self.blocks(), lambda: {"corpus": "numbers"})
        for unit in writer.missing():
            writer.write_shard(unit, self.shard(writer, unit))
        writer.seal()


def config(**changes: object) -> StoreConfig:
    """Shards of six sequences and chunks of two of their four positions."""
    dtype = FloatDtype(changes.get("dtype", FloatDtype.bfloat16))  # type: ignore[arg-type]
    sequence = POSITIONS * sum(WIDTHS.values()) * dtype.disk.itemsize / 2**20
    sizes = {"chunk_mib": 3.5 * sequence, "shard_mib": 6.5 * sequence, "held_out": 0.25}
    return StoreConfig(**{**sizes, **changes})  # type: ignore[arg-type]


@pytest.fixture
def data() -> Data:
    return Data()


@pytest.fixture
def create(tmp_path: Path) -> Callable[..., StoreWriter]:
    """Start, or go on with, a store in a folder of this test's own."""

    def create(name: str = "store", **changes: object) -> StoreWriter:
        return StoreWriter.create(
            tmp_path / name, WIDTHS, POSITIONS, config(**changes), {"lm": "none"}, SEQUENCES
        )

    return create
