"""Reading chunks of a shard file, each compared with the checksum it was committed with.

A chunk's place follows from the layout, so the index at the end of the file is left to zarr.

The files are plain zarr v3 (`sharding_indexed`, then `bytes` and `crc32c`) and zarr opens them.
They are not read through zarr here because zarr-python 3.1.6 needs 28 turns of its one event loop
and two extra copies a chunk: 1.3 ms for 1 MiB and 2.6 ms for 4 MiB, no faster with more threads,
where one positioned read and its checksum take 0.15 and 0.7 ms.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from awscrt.checksums import crc32c

from sae_dist.common.errors import UserError
from sae_dist.store.arrays import ArraySpec
from sae_dist.store.layout import Layout
from sae_dist.store.schema import FileRecord


class ShardReader:
    """Reads chunks of one array; safe to call from many threads.

    `records` are those of the array's files, by their path in the store.
    """

    def __init__(
        self, root: Path, spec: ArraySpec, layout: Layout, records: Mapping[str, FileRecord]
    ) -> None:
        self._root = root
        self._spec = spec
        self._layout = layout
        self._records = records

    def read_chunk(self, chunk: int) -> np.ndarray:
        """Chunk `chunk` [n, p, …] in the storage dtype, checked; the array is the caller's own.

        Raises UserError naming file and chunk when it is missing, cut short or altered.
        """
        out = np.empty(self._spec.chunk_shape(self._layout), self._spec.dtype)
        self.read_chunk_into(chunk, out)
        return out[: len(self._layout.sequences_of_chunk(chunk))]

    def read_chunk_into(self, chunk: int, out: np.ndarray) -> None:
        """Fill `out`, of a whole chunk (C order); fill values follow a partial one."""
        unit, place = divmod(chunk, self._layout.chunks_per_shard)
        file_name = self._spec.file(unit)
        path, offset = self._root / file_name, place * self._spec.stored_chunk_bytes(self._layout)
        try:
            if (record := self._records.get(file_name)) is None:
                raise _DamageError("its unit is not committed")
            expected = record.chunk_crc32c[8 * place : 8 * place + 8]
            with open(path, "rb", buffering=0) as file:
                data = out.reshape(-1).view(np.uint8)
                _read_exactly(file.fileno(), data, offset)
            if (found := f"{crc32c(data.data):08x}") != expected:
                raise _DamageError(f"crc32c {found} instead of {expected}")
        except (_DamageError, OSError) as error:
            raise UserError(
                f"found chunk {chunk} damaged in {path} ({error}); expected the bytes that were "
                "committed; run launch/verify.py, with repair=true to mend it"
            ) from error

    def read_sequences(self, sequences: range) -> np.ndarray:
        """Whole sequences [n, S, …], put together from all chunks that hold any of them."""
        out = np.empty((len(sequences), *self._spec.shape), self._spec.dtype)
        for chunk in self._layout.chunks_with(sequences):
            held = self._layout.sequences_of_chunk(chunk)
            positions = self._layout.positions_of_chunk(chunk)
            first, stop = max(held.start, sequences.start), min(held.stop, sequences.stop)
            rows = self.read_chunk(chunk)[first - held.start : stop - held.start]
            out[first - sequences.start :][: len(rows), positions.start : positions.stop] = rows
        return out


class _DamageError(Exception):
    """Bytes of a shard are not what was written."""


def _read_exactly(descriptor: int, out: np.ndarray, offset: int) -> None:
    done = 0
    while done < out.nbytes:
        count = os.preadv(descriptor, [out[done:].data], offset + done)
        if count == 0:
            raise _DamageError("file too short")
        done += count
