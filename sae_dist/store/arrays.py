"""The arrays of a store as zarr v3 sees them: their metadata, and where in a file what is.

The files are plain zarr v3 (`sharding_indexed`, then `bytes` and `crc32c`), and tests read them
with zarr-python and tensorstore. They are laid out here because a whole shard is written at once,
and chunks are read one by one, faster so than through either: benchmarks/README.md.

Every array is split along its first axis alone: a unit is a shard, and chunks are parts of it. A
shard's file is its chunks one after the other, each followed by its CRC-32C, then the index of
their (offset, bytes), which has no chunk where the unit ends early. So its bytes follow from the
number of items in it, its values and their checksums.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np

from sae_dist.common.dtypes import FloatDtype
from sae_dist.store.layout import Layout, is_held_out

if TYPE_CHECKING:
    from sae_dist.store.records import Settings

INPUT_IDS = "sequences/input_ids"
MARKS = "sequences/marks"
INDEX = "rows/index"
TOKEN_ARRAYS = (INPUT_IDS, MARKS)
BFLOAT16_NAN = 0x7FC1
INT8_HOLE = -128  # a value is at least -127
_FILLS = {FloatDtype.bfloat16: BFLOAT16_NAN, FloatDtype.int8: INT8_HOLE}
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
        number = np.arange(self.num_chunks(num_items), dtype="<u8")
        places[: len(number), 0], places[: len(number), 1] = (
            number * self.chunk_bytes,
            self.chunk_bytes,
        )
        return places.tobytes() + crc32c(places.view(np.uint8).ravel()).to_bytes(4, "little")

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


def crc32c(data: np.ndarray) -> int:
    """The CRC-32C of uint8 [n]."""
    return google_crc32c.value(data)


def activations_path(site: str, is_of_rows: bool) -> str:
    """Folder of one site's activations in training units, or in held-out ones."""
    return f"{'rows' if is_of_rows else 'sequences'}/activations/{site}"


def scales_path(site: str, is_of_rows: bool) -> str:
    """Folder of the scales of one site in eight bits, one a token."""
    return f"{'rows' if is_of_rows else 'sequences'}/scales/{site}"


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
                fill_value=_FILLS.get(dtype, "NaN"),
                attributes={"logical_dtype": dtype.value},
            )
            scales = of_site(
                path=scales_path(site, is_of_rows),
                item_shape=item,
                dtype=float32,
                fill_value="NaN",
            )
            specs += [values, scales] if dtype is FloatDtype.int8 else [values]
    return {spec.path: spec for spec in specs}


def of_unit(specs: Mapping[str, ArraySpec], is_held_out: bool) -> list[ArraySpec]:
    """The arrays of which a unit has a file."""
    return [
        spec
        for spec in specs.values()
        if spec.path in TOKEN_ARRAYS or spec.is_of_rows is not is_held_out
    ]


def bytes_on_disk(specs: Iterable[ArraySpec], num_rows: int, num_sequences: int) -> int:
    """Exact bytes of one unit's files of these arrays, checksums and indices included."""
    return sum(spec.file_bytes(num_rows if spec.is_of_rows else num_sequences) for spec in specs)


def bytes_by_array(settings: "Settings", num_sequences: int) -> dict[str, int]:
    """What each array takes on disk, by path, if all tokens are trained on: no store takes more."""
    layout = settings.layout(num_sequences)
    specs = array_specs(settings.widths, layout, settings.dtype)
    units = Counter(
        (is_held_out(unit, settings.held_out), len(layout.sequences_of(unit)))
        for unit in range(layout.num_units)
    )
    found: Counter[str] = Counter()
    for (held, num), count in units.items():
        for spec in of_unit(specs, held):
            num_items = num * layout.sequence_length if spec.is_of_rows else num
            found[spec.path] += count * spec.file_bytes(num_items)
    return dict(found)
