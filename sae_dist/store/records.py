"""What the JSON files of a store say: settings, commits, and the manifest that readers trust.

Until the seal, settings and commits are the truth; sealing writes the manifest and removes them.
Each carries the sha256 of its own contents, so that a flipped bit is found in the file it is in.
"""

import base64
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import msgspec
import numpy as np

from sae_dist.common.dtypes import FloatDtype
from sae_dist.common.errors import UserError
from sae_dist.common.settings import validate
from sae_dist.store.config import NonFinite, StoreConfig
from sae_dist.store.files import Fault, Files
from sae_dist.store.layout import ArraySpec, Layout, array_specs, is_held_out

FORMAT = 4
SETTINGS_FILE = "SETTINGS.json"
MANIFEST_FILE = "MANIFEST.json"
SUMS_FILE = "SUMS.bin"
COPIES = "copy"  # of the manifest and the sums: the only records of a store that nothing else says
UNIT_COMMITS = "commits/units"
TOKENS = "commits/tokens"
TOKENS_END = f"{TOKENS}/end.json"
_MIB = 2**20
_SHARDS = 4096  # of a large store
_LEAST_MIB, _MOST_MIB, _MOST_MIB_A_SITE = 256, 12 * 1024, 1024
_END = b"\n}"
_SEAL = b',\n  "sha256": "%s"' + _END  # at the end of each file

Positive = Annotated[int, msgspec.Meta(ge=1, lt=2**48)]
Count = Annotated[int, msgspec.Meta(ge=0, lt=2**48)]
SITE_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}\Z"
Site = Annotated[str, msgspec.Meta(pattern=SITE_PATTERN)]


def commit_file(unit: int) -> str:
    """Path, inside the store, of a unit's commit."""
    return f"{UNIT_COMMITS}/{unit:05d}.json"


def tokens_file(unit: int) -> str:
    """Path, inside the store, of a unit's tokens until it is committed."""
    return f"{TOKENS}/{unit:05d}"


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of JSON."""


class Settings(Record, frozen=True):
    """What a store was started with; `num_sequences` None means as many as come."""

    num_sequences: Positive | None
    sequence_length: Positive
    shard_sequences: Positive
    chunk_sequences: Positive
    chunk_rows: Positive
    dtype: FloatDtype
    held_out: Annotated[float, msgspec.Meta(ge=0, lt=1)]
    widths: Annotated[dict[Site, Positive], msgspec.Meta(min_length=1)]
    provenance: dict[str, Any]
    non_finite: NonFinite
    max_norm: float | None
    format: int = FORMAT

    def layout(self, num_sequences: int) -> Layout:
        """The store's grid for a known number of sequences."""
        return Layout(
            num_sequences=num_sequences,
            sequence_length=self.sequence_length,
            shard_sequences=self.shard_sequences,
            chunk_sequences=self.chunk_sequences,
            chunk_rows=self.chunk_rows,
        )

    def is_held_out(self, unit: int) -> bool:
        """Whether a unit is kept from training."""
        return is_held_out(unit, self.held_out)

    def specs(self) -> dict[str, ArraySpec]:
        """All arrays by path."""
        return array_specs(self.widths, self.layout(0), self.dtype)

    def bytes_by_array(self, num_sequences: int, without: Collection[int] = ()) -> dict[str, int]:
        """What each array takes on disk, by path, if all tokens are trained on: never more.

        Checksums and indices are counted, and so are all units but those in `without`.
        """
        layout, specs = self.layout(num_sequences), self.specs().values()
        units = Counter(
            (self.is_held_out(unit), len(layout.sequences_of(unit)))
            for unit in range(layout.num_units)
            if unit not in without
        )
        result: Counter[str] = Counter()
        for (held, num), count in units.items():
            for spec in (spec for spec in specs if spec.is_of(held)):
                num_items = num * layout.sequence_length if spec.is_of_rows else num
                result[spec.path] += count * spec.file_bytes(num_items)
        return dict(result)


class TokensEnd(Record, frozen=True):
    """All tokens are there: how many sequences, of which corpus."""

    num_sequences: Positive
    fingerprint: dict[str, Any]


class UnitTokens(msgspec.Struct, frozen=True):
    """A unit's tokens before its commit: `ids` are little-endian int32, `trainable` a byte each.

    `cursor` (JSON) is where the text goes on after them. A file ends in the sha256 of the rest.
    """

    num_sequences: Positive
    ids: bytes
    trainable: bytes
    cursor: Any

    @classmethod
    def of(cls, ids_NS: np.ndarray, trainable_NS: np.ndarray, cursor: Any) -> Self:
        """From int32 and bool [n, S]."""
        ids, trainable = ids_NS.astype("<i4").tobytes(), trainable_NS.astype(np.uint8).tobytes()
        return cls(len(ids_NS), ids, trainable, cursor)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """(ids int32 [n, S], trainable bool [n, S])."""
        ids, trainable = np.frombuffer(self.ids, "<i4"), np.frombuffer(self.trainable, np.uint8)
        shape = (self.num_sequences, -1)
        return ids.reshape(shape).astype(np.int32), trainable.reshape(shape).astype(bool)

    def encode(self) -> bytes:
        """The bytes of its file."""
        data = msgspec.msgpack.encode(self)
        return data + hashlib.sha256(data).digest()


class Statistics(msgspec.Struct, frozen=True, kw_only=True, eq=False, forbid_unknown_fields=True):
    """Sums over trainable tokens, float64; adding two gives the statistics of both."""

    count: int
    sum: np.ndarray
    sum_square: float

    @classmethod
    def zero(cls, width: int) -> Self:
        """Statistics of no token, of sites `width` wide."""
        return cls(count=0, sum=np.zeros(width), sum_square=0.0)

    def __add__(self, other: "Statistics") -> "Statistics":
        return Statistics(
            count=self.count + other.count,
            sum=self.sum + other.sum,
            sum_square=self.sum_square + other.sum_square,
        )

    @property
    def mean(self) -> np.ndarray:
        """Mean activation, float64 [width]; zeros when nothing was counted."""
        return self.sum / max(self.count, 1)

    @property
    def mean_square(self) -> float:
        """E‖x‖², the mean squared norm of an activation."""
        return self.sum_square / max(self.count, 1)


class UnitCommit(Record, frozen=True):
    """One unit is written whole.

    Attributes:
        unit, num_sequences: which, and how long.
        token: part of its files' names until they get their own.
        rows: trainable tokens, those left out not counted.
        sums: CRC-32C of each chunk of each of its files, by array; little-endian uint32.
        statistics: by site, of these rows.
        dropped: how many tokens were left out because of a site; a token may count at several.
        num_dropped: how many were.
    """

    unit: Count
    num_sequences: Positive
    token: str
    rows: Count
    sums: dict[str, bytes]
    statistics: dict[str, Statistics]
    dropped: dict[str, Count]
    num_dropped: Count


class Manifest(Record, frozen=True):
    """Everything a reader trusts.

    Attributes:
        settings: what the store was started with.
        num_sequences: how many there are.
        rows: of each unit its trainable tokens, those left out not counted.
        statistics: by site, over the training units.
        dropped, num_dropped: as in a commit, over all units.
        fingerprint: of the text.
        sums: sha256 of SUMS.bin (`Contents.all_sums`).
    """

    settings: Settings
    num_sequences: Positive
    rows: list[Count]
    statistics: dict[str, Statistics]
    dropped: dict[str, Count]
    num_dropped: Count
    fingerprint: dict[str, Any]
    sums: str
    format: int = FORMAT

    @property
    def layout(self) -> Layout:
        """The store's grid."""
        return self.settings.layout(self.num_sequences)


AnyRecord = TypeVar("AnyRecord", bound=Record)


def dump(record: Record) -> bytes:
    """The bytes of a JSON file of a store; its last entry is the sha256 of all the others."""
    compact = msgspec.json.encode(record, enc_hook=_plain, order="sorted")
    return _sealed(msgspec.json.format(compact, indent=2))


def _sealed(plain: bytes) -> bytes:
    return plain.removesuffix(_END) + _SEAL % hashlib.sha256(plain).hexdigest().encode()


def digest(data: bytes) -> str:
    """The sha256 at the end of what `dump` gave."""
    return data[-len(_END) - 65 : -len(_END) - 1].decode()


def load(files: Files, name: str, kind: type[AnyRecord]) -> AnyRecord:
    """Read one JSON file of a store; see `parse`. Raises FileNotFoundError if there is none."""
    return parse(files.read(name), files.path(name), kind)


def parse(data: bytes, path: Path | str, kind: type[AnyRecord]) -> AnyRecord:
    """The record that a file holds; Fault naming it when it is not what `dump` wrote.

    Nothing is parsed before the sha256 is found right.
    """
    plain = data[: -len(_SEAL % (b"0" * 64))] + _END
    if data != _sealed(plain):
        raise Fault(path, "altered (its last line is not the sha256 of the others)")
    try:
        found = msgspec.json.decode(plain)
        if isinstance(found, dict) and found.get("format", FORMAT) == FORMAT:
            return msgspec.convert(found, kind, dec_hook=_rich)
    except (ValueError, RecursionError) as error:  # msgspec's own are ValueErrors
        raise Fault(path, f"malformed ({error})"[:200]) from error
    said = f"in format {found.get('format')!r}" if isinstance(found, dict) else "malformed"
    remedy = "read it with the version of sae_dist that wrote it"
    raise Fault(path, said[:80], f"format {FORMAT}", remedy)


def _plain(value: Any) -> Any:
    """Sums travel as base64 of little-endian float64, so that nothing is rounded."""
    if isinstance(value, np.ndarray):
        return base64.b64encode(value.astype("<f8").tobytes()).decode()
    raise NotImplementedError(type(value))


def _rich(kind: type, value: Any) -> Any:
    if kind is np.ndarray:
        return np.frombuffer(base64.b64decode(value, validate=True), "<f8").astype(np.float64)
    raise NotImplementedError(kind)


def load_settings(files: Files) -> tuple[str, Settings]:
    """(file, settings) of a started or sealed store. Raises FileNotFoundError if there is none."""
    try:
        return SETTINGS_FILE, load(files, SETTINGS_FILE, Settings)
    except FileNotFoundError:  # sealing writes the manifest before it removes the settings
        return MANIFEST_FILE, load(files, MANIFEST_FILE, Manifest).settings


def list_units(files: Files, folder: str) -> set[int]:
    """The units of which there are tokens (in TOKENS) or a commit (in UNIT_COMMITS)."""
    names = (name.removesuffix(".json") for name in files.list(folder))
    return {int(name) for name in names if name.isdigit()}


def load_commit(files: Files, unit: int) -> UnitCommit:
    """The commit of one unit. Raises Fault when it is damaged, or another unit's."""
    commit = load(files, commit_file(unit), UnitCommit)
    if commit.unit != unit:
        raise Fault(files.path(commit_file(unit)), f"to be of unit {commit.unit}", "its own")
    return commit


def load_tokens(files: Files, unit: int) -> UnitTokens:
    """Raises Fault for tokens that were altered, FileNotFoundError if there are none."""
    name, size = tokens_file(unit), hashlib.sha256().digest_size
    data = files.read(name)
    content, found = data[:-size], data[-size:]
    with suppress(ValueError):  # of msgspec
        if found == hashlib.sha256(content).digest():
            return msgspec.msgpack.decode(content, type=UnitTokens)
    raise Fault(files.path(name), "altered", "the tokens that were written")


def load_end(files: Files) -> TokensEnd | None:
    """What is known once all tokens are written."""
    return load(files, TOKENS_END, TokensEnd) if files.exists(TOKENS_END) else None


def choose_settings(
    widths: dict[str, int],
    sequence_length: int,
    config: StoreConfig,
    provenance: dict[str, Any],
    num_sequences: int | None,
) -> Settings:
    """Check what the user asks for, and choose the grid.

    Its chunks and shards come closest to the wanted sizes without passing them. Units of a known
    number of sequences are even, so that none is nearly empty, and as many, if there are so many
    sequences, as it takes to set a share of `held_out` aside. Sizes count all sites together, so
    that one grid fits them all. A chunk holds at least one row (or one sequence) and a unit one
    sequence, however small the wanted sizes.

    Raises UserError, also when a shard is wanted smaller than a chunk.
    """
    validate(config, "writer.")
    _check_sites(widths)
    if sequence_length < 1 or (num_sequences is not None and num_sequences < 1):
        raise UserError(
            f"found {num_sequences} sequences of {sequence_length} positions; expected at least "
            "one of each; change them"
        )
    position_bytes = sum(widths.values()) * config.dtype.disk.itemsize
    total_mib = (num_sequences or 0) * sequence_length * position_bytes / _MIB
    most_mib = min(_MOST_MIB, _MOST_MIB_A_SITE * sum(widths.values()) / max(widths.values()))
    shard_mib = config.shard_mib or max(_LEAST_MIB, min(total_mib / _SHARDS, most_mib))
    if config.chunk_mib > shard_mib:
        raise UserError(
            f"found chunk_mib={config.chunk_mib:g} and shard_mib={shard_mib:g}; expected "
            "0 < chunk_mib <= shard_mib; change one of them"
        )
    shard = max(1, int(shard_mib * _MIB) // (sequence_length * position_bytes))
    if num_sequences:
        if config.held_out:
            shard = min(shard, math.ceil(num_sequences * config.held_out))
        shard = _evenly(num_sequences, shard)
    rows = max(1, int(config.chunk_mib * _MIB) // position_bytes)
    chunk_sequences = _evenly(shard, max(1, rows // sequence_length))
    shard = math.ceil(shard / chunk_sequences) * chunk_sequences
    return Settings(
        num_sequences=num_sequences,
        sequence_length=sequence_length,
        shard_sequences=shard,
        chunk_sequences=chunk_sequences,
        chunk_rows=_evenly(shard * sequence_length, rows),
        dtype=config.dtype,
        held_out=config.held_out,
        widths=dict(sorted(widths.items())),
        provenance=provenance,
        non_finite=config.non_finite,
        max_norm=config.max_norm,
    )


def _evenly(total: int, largest: int) -> int:
    """The size of parts as equal as can be, and none larger than `largest`."""
    return math.ceil(total / math.ceil(total / largest))


def _check_sites(widths: dict[str, int]) -> None:
    """Raise UserError for a site whose name cannot be a folder's, or whose width is none."""
    if not widths:
        raise UserError("found no site; expected at least one; name one")
    for site, width in widths.items():
        if not re.fullmatch(SITE_PATTERN, site):
            raise UserError(
                f"found site {site[:130]!r}; expected letters, digits, '_', '-' and inner dots, at "
                "most 128 of them; rename it"
            )
        if type(width) is not int or width < 1:
            raise UserError(
                f"found width {width!r} at site {site!r}; expected a positive number; mend it"
            )


def require_same(path: Path | str, found: Settings, wanted: Settings) -> None:
    """Raise UserError with the entries of a store's settings that are not the wanted ones."""
    there, asked = (msgspec.to_builtins(settings) for settings in (found, wanted))
    keys = sorted(key for key in there if there[key] != asked[key])
    if keys:
        differences, expected = (
            ", ".join(f"{key}={json.dumps(values[key], sort_keys=True)}" for key in keys)
            for values in (there, asked)
        )
        raise UserError(
            f"found {path} started with {differences}; expected {expected}; use the same settings "
            "or another path"
        )
