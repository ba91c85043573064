"""Where in a store what lies: arithmetic, no files.

Every array is split along its first axis alone: a unit is a shard, and chunks are parts of it.
The files are plain zarr v3 (`sharding_indexed`, then `bytes` and `crc32c`), and tests read them
with zarr-python and tensorstore. They are laid out here because a whole shard is written at once,
and chunks are read one by one, faster so than through either: benchmarks/README.md.

A shard's file is its chunks one after the other, each followed by its CRC-32C, then the index of
their (offset, bytes), which has no chunk where the unit ends early. So its bytes follow from the
number of items in it, its values and their checksums.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from sae_dist.common.dtypes import FloatDtype
from sae_dist.common.files import crc32c


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The grid of a store.

    Unit u is the sequences [u · shard_sequences, (u + 1) · shard_sequences), and one file of every
    array. A training unit is rows, trainable tokens alone, in chunks of `chunk_rows`; a held-out
    one is sequences, in chunks of `chunk_sequences`. The last chunk of a unit may be partial.
    """

    num_sequences: int
    sequence_length: int
    shard_sequences: int
    chunk_sequences: int
    chunk_rows: int

    @property
    def num_units(self) -> int:
        """Units, a partial last one included."""
        return math.ceil(self.num_sequences / self.shard_sequences)

    @property
    def unit_rows(self) -> int:
        """Places for rows in a training unit: whole chunks that could hold all of its tokens."""
        tokens = self.shard_sequences * self.sequence_length
        return math.ceil(tokens / self.chunk_rows) * self.chunk_rows

    def sequences_of(self, unit: int) -> range:
        """Sequence numbers of one unit."""
        start = unit * self.shard_sequences
        return range(start, min(start + self.shard_sequences, self.num_sequences))


def is_held_out(unit: int, share: float) -> bool:
    """Whether a unit is kept from training: number 1, and evenly spaced ones after it.

    This depends on nothing else, since a text may end before the tokens that were asked for. Of two
    units or more one at least is held out when `share` > 0, and one at least never is.
    """
    before, after = (math.ceil(round(num * share, 9)) for num in (unit - 1, unit))
    return unit > 0 and after > before


INPUT_IDS = "sequences/input_ids"
MARKS = "sequences/marks"
INDEX = "rows/index"
TOKEN_ARRAYS = (INPUT_IDS, MARKS)
_HOLES = {FloatDtype.bfloat16: 0x7FC1, FloatDtype.int8: -128}  # NaN's bits; no value is below -127
CRC_BYTES = 4
_NO_CHUNK = 2**64 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ArraySpec:
    """One array: its folder in the store, what an item is (a row or a sequence), how they are cut.

    `item_shape` is that of an item; a shard has room for `shard_items`, a chunk for `chunk_items`.
    """

    path: str
    item_shape: tuple[int, ...]
    shard_items: int
    chunk_items: int
    dtype: np.dtype
    fill_value: int | str
    attributes: dict[str, str] = field(default_factory=dict)

    @property
    def is_of_rows(self) -> bool:
        """Whether it holds the rows of training units, or else sequences."""
        return self.path.startswith("rows/")

    def is_of(self, is_held_out: bool) -> bool:
        """Whether a held-out unit, or a training unit, has a file of it."""
        return self.path in TOKEN_ARRAYS or self.is_of_rows is not is_held_out

    @property
    def metadata_file(self) -> str:
        """Path, inside the store, of the array's metadata."""
        return f"{self.path}/zarr.json"

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """That of a whole chunk."""
        return self.chunk_items, *self.item_shape

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one chunk in its shard with its checksum; a partial one is stored filled up."""
        return math.prod(self.chunk_shape) * self.dtype.itemsize + CRC_BYTES

    @property
    def shard_bytes(self) -> int:
        """Bytes of the values of a whole shard."""
        return self.shard_items * math.prod(self.item_shape) * self.dtype.itemsize

    def file(self, unit: int) -> str:
        """Path, inside the store, of one shard."""
        return "/".join([self.path, ".".join(["c", str(unit), *("0" for _ in self.item_shape)])])

    def unpublished(self, unit: int, token: str) -> str:
        """Path of one shard that waits for the commit, in which `token` stands."""
        folder, _, name = self.file(unit).rpartition("/")
        return f"{folder}/.{name}.{token}.tmp"

    def num_chunks(self, num_items: int) -> int:
        """Chunks of a shard with so many items."""
        return math.ceil(num_items / self.chunk_items)

    def file_bytes(self, num_items: int) -> int:
        """Bytes of the file of a shard with so many items."""
        index = 16 * (self.shard_items // self.chunk_items) + CRC_BYTES
        return self.num_chunks(num_items) * self.chunk_bytes + index

    def index(self, num_items: int) -> bytes:
        """The end of that file: (offset, bytes) of each chunk, and their CRC-32C."""
        places = np.full((self.shard_items // self.chunk_items, 2), _NO_CHUNK, "<u8")
        there = places[: self.num_chunks(num_items)]
        there[:, 0] = np.arange(len(there)) * self.chunk_bytes
        there[:, 1] = self.chunk_bytes
        return places.tobytes() + crc32c(places).to_bytes(4, "little")

    def empty_chunk(self) -> np.ndarray:
        """A chunk of fill values."""
        fill = np.nan if self.fill_value == "NaN" else self.fill_value
        return np.full(self.chunk_shape, fill, self.dtype)

    def metadata(self, layout: Layout) -> dict[str, Any]:
        """The array's zarr.json (zarr v3 core and sharding_indexed specifications)."""
        endian = {} if self.dtype.itemsize == 1 else {"configuration": {"endian": "little"}}
        little = {"name": "bytes", "configuration": {"endian": "little"}}
        sharding = {
            "chunk_shape": list(self.chunk_shape),
            "codecs": [{"name": "bytes", **endian}, {"name": "crc32c"}],
            "index_codecs": [little, {"name": "crc32c"}],
            "index_location": "end",
        }
        items = layout.num_units * layout.unit_rows if self.is_of_rows else layout.num_sequences
        shard_shape = [self.shard_items, *self.item_shape]
        names = ["row", "d_site"] if self.is_of_rows else ["sequence", "position", "d_site"]
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [items, *self.item_shape],
            "data_type": self.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard_shape}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": self.fill_value,
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "dimension_names": names[: 1 + len(self.item_shape)],
            "attributes": self.attributes,
            "storage_transformers": [],
        }


def activations_path(site: str, is_of_rows: bool) -> str:
    """Folder of one site's activations in training units, or in held-out ones."""
    return f"{'rows' if is_of_rows else 'sequences'}/activations/{site}"


def scales_path(activations: str) -> str:
    """Folder of the scales of activations in eight bits, one a token."""
    return activations.replace("/activations/", "/scales/")


def array_specs(
    widths: Mapping[str, int], layout: Layout, dtype: FloatDtype
) -> dict[str, ArraySpec]:
    """All arrays of a store by path: tokens, rows' index, then those of the sites."""
    sequence, shard = (layout.sequence_length,), layout.shard_sequences
    of_tokens = partial(ArraySpec, shard_items=shard, chunk_items=shard)  # small: a chunk a unit
    of_rows = partial(ArraySpec, shard_items=layout.unit_rows, chunk_items=layout.chunk_rows)
    of_sequences = partial(ArraySpec, shard_items=shard, chunk_items=layout.chunk_sequences)
    int32, uint8, int64, float32 = map(np.dtype, ("int32", "uint8", "int64", "float32"))
    specs = [
        of_tokens(path=INPUT_IDS, item_shape=sequence, dtype=int32, fill_value=-1),
        of_tokens(path=MARKS, item_shape=sequence, dtype=uint8, fill_value=0),
        of_rows(path=INDEX, item_shape=(), dtype=int64, fill_value=-1),
    ]
    for is_of_rows, item, of_site in ((True, (), of_rows), (False, sequence, of_sequences)):
        for site, width in widths.items():
            values = of_site(
                path=activations_path(site, is_of_rows),
                item_shape=(*item, width),
                dtype=dtype.disk,
                fill_value=_HOLES.get(dtype, "NaN"),
                attributes={"logical_dtype": dtype.value},
            )
            specs.append(values)
            if dtype is FloatDtype.int8:
                path = scales_path(values.path)
                specs.append(of_site(path=path, item_shape=item, dtype=float32, fill_value="NaN"))
    return {spec.path: spec for spec in specs}
