from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sae_dist.common.dtypes import FloatDtype, from_storage, to_storage
from sae_dist.store import Store, StoreConfig, StoreWriter

POSITIONS, WIDTHS, SEQUENCES = 4, {"in.0": 6, "out.0": 3}, 23


class Data:
    """Activations and tokens of a small store: 23 sequences in units of 6."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.acts = {
            site: torch.randn(SEQUENCES, POSITIONS, width, generator=generator)
            for site, width in WIDTHS.items()
        }
        self.ids = np.arange(SEQUENCES * POSITIONS, dtype=np.int32).reshape(SEQUENCES, POSITIONS)
        self.trainable = self.ids % 5 != 0

    def tokens(self, unit: int) -> tuple[np.ndarray, np.ndarray]:
        rows = slice(unit * 6, unit * 6 + 6)
        return self.ids[rows], self.trainable[rows]

    def put_tokens(self, writer: StoreWriter) -> None:
        """From wherever the one before was stopped, by the cursor it left."""
        first = (writer.tokens_written()[1] or {"next": 0})["next"]
        for unit in range(first, 4):
            writer.put_tokens(unit, *self.tokens(unit), {"next": unit + 1})
        writer.end_tokens(SEQUENCES, {"corpus": "numbers"})

    def shard(self, writer: StoreWriter, unit: int) -> dict[str, np.ndarray]:
        rows = slice(unit * 6, unit * 6 + 6)
        return {site: to_storage(x[rows], writer.settings.dtype) for site, x in self.acts.items()}

    def fill(self, writer: StoreWriter) -> None:
        """What a harvest does, from wherever it was stopped."""
        if not writer.sealed:
            self.put_tokens(writer)
        for unit in writer.missing():
            writer.write_unit(unit, self.shard(writer, unit))
        writer.seal()


def config(**changes: object) -> StoreConfig:
    """Units of six sequences, unit 1 held out; chunks of twelve rows, or of three sequences."""
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


def everything(store: Store, site: str) -> torch.Tensor:
    """All that is read of a site, put back in its place [N, S, D]; NaN where nothing is stored."""
    layout, width = store.layout, store.sites[site]
    shape = (layout.num_sequences, layout.sequence_length, width)
    x_NSD = torch.full(shape, torch.nan, dtype=store.dtype.compute)
    for chunk in range(len(store.chunk_rows)):
        rows = from_storage(store.read_rows(site, chunk), store.dtype)
        x_NSD.view(-1, width)[torch.from_numpy(store.read_index(chunk))] = rows
    for sequences in store.held_out:
        held = from_storage(store.read_sequences(site, sequences), store.dtype)
        x_NSD[sequences.start : sequences.stop] = held
    return x_NSD
