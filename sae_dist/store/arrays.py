"""The arrays of a store as zarr v3 sees them: their metadata, and one whole shard as bytes.

The files are plain zarr v3, and tests read them with zarr-python. They are laid out here because
zarr-python 3.1.6 needs 119 ms to encode a shard of 64 MiB that a disk takes in 48 ms, and because
its local store neither fsyncs nor refuses to merge with leftovers.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from awscrt.checksums import crc32c

from sae_dist.common.dtypes import FloatDtype
from sae_dist.store.layout import Layout

INPUT_IDS = "tokens/input_ids"
TRAINABLE = "tokens/trainable"
BFLOAT16_NAN = 0x7FC1
INT8_HOLE = -128  # a value is at least -127
_FILLS = {FloatDtype.bfloat16: BFLOAT16_NAN, FloatDtype.int8: INT8_HOLE}
_INNER_CRC_BYTES = 4
_NO_CHUNK = 2**64 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ArraySpec:
    """One array: its folder in the store, the shape of a sequence, its dtype."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype
    fill_value: int | bool | str
    attributes: dict[str, str] = field(default_factory=dict)

    def file(self, unit: int) -> str:
        """Path, inside the store, of one shard."""
        return f"{self.path}/{self.file_name(unit)}"

    def file_name(self, unit: int) -> str:
        """Name, inside the array's folder, of one shard."""
        return ".".join(["c", str(unit), *("0" for _ in self.shape)])

    @property
    def metadata_file(self) -> str:
        """Path, inside the store, of the array's metadata."""
        return f"{self.path}/zarr.json"

    @property
    def sequence_bytes(self) -> int:
        """Bytes of one sequence."""
        return math.prod(self.shape) * self.dtype.itemsize

    def chunk_shape(self, layout: Layout) -> tuple[int, ...]:
        """Sequences, positions and width of one whole chunk."""
        return layout.chunk_sequences, layout.chunk_positions, *self.shape[1:]

    def stored_chunk_bytes(self, layout: Layout) -> int:
        """Bytes of one chunk in its shard with its checksum; a partial one is stored filled up."""
        return math.prod(self.chunk_shape(layout)) * self.dtype.itemsize + _INNER_CRC_BYTES


def site_path(site: str) -> str:
    """Folder of one site's activations."""
    return f"activations/{site}"


def scale_path(site: str) -> str:
    """Folder of the scales of one site in eight bits, one a token."""
    return f"scales/{site}"


def array_specs(
    widths: Mapping[str, int], sequence_length: int, dtype: FloatDtype
) -> dict[str, ArraySpec]:
    """All arrays of a store by path: the two of tokens, then those of the sites."""
    shape = (sequence_length,)
    tokens = [
        ArraySpec(path=INPUT_IDS, shape=shape, dtype=np.dtype("int32"), fill_value=-1),
        ArraySpec(path=TRAINABLE, shape=shape, dtype=np.dtype("bool"), fill_value=False),
    ]
    return {spec.path: spec for spec in tokens} | site_specs(widths, sequence_length, dtype)


def site_specs(
    widths: Mapping[str, int], sequence_length: int, dtype: FloatDtype
) -> dict[str, ArraySpec]:
    """The arrays of the sites by path: the activations of each, and in eight bits their scales."""
    specs = []
    for site, width in widths.items():
        values = ArraySpec(
            path=site_path(site),
            shape=(sequence_length, width),
            dtype=dtype.disk,
            fill_value=_FILLS.get(dtype, "NaN"),
            attributes={"logical_dtype": dtype.value},
        )
        specs.append(values)
        if dtype is FloatDtype.int8:
            scale, shape = np.dtype("float32"), (sequence_length,)
            specs.append(
                ArraySpec(path=scale_path(site), shape=shape, dtype=scale, fill_value="NaN")
            )
    return {spec.path: spec for spec in specs}


def metadata(spec: ArraySpec, layout: Layout) -> dict[str, Any]:
    """The array's zarr.json (zarr v3 core and sharding_indexed specifications)."""
    endian = {} if spec.dtype.itemsize == 1 else {"configuration": {"endian": "little"}}
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    sharding = {
        "chunk_shape": list(spec.chunk_shape(layout)),
        "codecs": [{"name": "bytes", **endian}, {"name": "crc32c"}],
        "index_codecs": [little, {"name": "crc32c"}],
        "index_location": "end",
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [layout.num_sequences, *spec.shape],
        "data_type": spec.dtype.name,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [layout.shard_sequences, *spec.shape]},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": spec.fill_value,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "dimension_names": ["sequence", "position", "d_site"][: 1 + len(spec.shape)],
        "attributes": spec.attributes,
        "storage_transformers": [],
    }


def bytes_on_disk(specs: Iterable[ArraySpec], layout: Layout, units: Iterable[int]) -> int:
    """Exact bytes of the shard files of `units`, checksums and indices included."""
    numbers = list(units)
    chunks = sum(len(layout.chunks_of(unit)) for unit in numbers)
    index = len(numbers) * (16 * layout.chunks_per_shard + _INNER_CRC_BYTES)
    return sum(chunks * spec.stored_chunk_bytes(layout) + index for spec in specs)


def shard_parts(
    spec: ArraySpec, layout: Layout, values: np.ndarray
) -> Iterator[tuple[memoryview, int]]:
    """What the shard file of `values` [n, S, …], n <= shard_sequences, holds: parts, each with its
    CRC-32C, which follows it in the file as a little-endian uint32.

    These are the chunks, then the index of their (offset, bytes), which has no chunk where the last
    shard ends early (zarr v3, sharding_indexed 1.0). A chunk that does not lie in one piece is
    copied when its turn comes, and a partial one filled up: no more than one is held here.
    """
    size = spec.stored_chunk_bytes(layout)
    index = np.full((layout.chunks_per_shard, 2), _NO_CHUNK, "<u8")
    for place, chunk in enumerate(_chunks(spec, layout, values)):
        yield _checked(chunk)
        index[place] = place * size, size
    yield _checked(index)


def _chunks(spec: ArraySpec, layout: Layout, values: np.ndarray) -> Iterator[np.ndarray]:
    """The chunks in order; copies are made in the same memory: new memory is as slow as copying."""
    sequences, positions = layout.chunk_sequences, layout.chunk_positions
    copy = np.empty(spec.chunk_shape(layout), spec.dtype)
    for start in range(0, len(values), sequences):
        block = values[start : start + sequences]
        copy[len(block) :] = spec.fill_value
        for first in range(0, layout.sequence_length, positions):
            piece = block[:, first : first + positions]
            if len(block) == sequences and piece.flags.c_contiguous:
                yield piece
            else:
                copy[: len(block)] = piece
                yield copy


def _checked(values: np.ndarray) -> tuple[memoryview, int]:
    """An array's bytes, and their CRC-32C."""
    data = values.reshape(-1).view(np.uint8).data
    return data, crc32c(data)
