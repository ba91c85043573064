"""A small made-up store, and a process that writes what it lacks."""

import sys
from pathlib import Path

import numpy as np
import torch

from sae_dist.common.dtypes import FloatDtype, to_storage
from sae_dist.common.seeds import derive
from sae_dist.store import StoreConfig, StoreWriter

SITE = "made_up"
_WIDTH, _POSITIONS, _SEQUENCES = 256, 16, 2048
_CONFIG = StoreConfig(
    dtype=FloatDtype.bfloat16, chunk_mib=0.125, shard_mib=0.5, held_out=0.1
)  # 32 shards of 64 sequences


def begin(path: Path) -> StoreWriter:
    """Start the store and commit its tokens."""
    writer = StoreWriter.create(path, {SITE: _WIDTH}, _POSITIONS, _CONFIG, {}, _SEQUENCES)
    ids_NS = np.arange(_SEQUENCES * _POSITIONS, dtype=np.int32).reshape(_SEQUENCES, _POSITIONS)
    size = writer.settings.shard_sequences
    for unit, first in enumerate(range(0, _SEQUENCES, size)):
        own_NS = ids_NS[first : first + size]
        writer.put_tokens(unit, own_NS, np.full(own_NS.shape, True), None)
    writer.end_tokens(_SEQUENCES, {})
    return writer


def fill(writer: StoreWriter, first: int = 0) -> None:
    """Write all units without a commit, in a ring that begins at `first`."""
    for unit in sorted(writer.missing(), key=lambda unit: (unit < first, unit)):
        writer.write_unit(unit, {SITE: _activations(writer, unit)})


def main() -> None:
    """The process: `path first`."""
    path, first = sys.argv[1:]
    fill(StoreWriter.open(path), int(first))


def _activations(writer: StoreWriter, unit: int) -> np.ndarray:
    """A unit's activations [n, S, d], a pure function of its number."""
    generator = torch.Generator().manual_seed(derive(0, "selftest", unit))
    shape = (len(writer.layout.sequences_of(unit)), _POSITIONS, _WIDTH)
    return to_storage(torch.randn(shape, generator=generator), writer.dtype)
