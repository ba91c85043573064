"""What the JSON files of a store say: settings, commits, and the manifest that readers trust.

Each carries the sha256 of its own contents, so that a flipped bit is found in the file it is in.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from sae_dist.common.dtypes import FloatDtype
from sae_dist.common.files import to_json
from sae_dist.store.config import NonFinite
from sae_dist.store.dropped import Dropped
from sae_dist.store.fault import Fault, FaultError
from sae_dist.store.layout import Layout
from sae_dist.store.links import odd_file
from sae_dist.store.statistics import Statistics

FORMAT = 3
SETTINGS_FILE = "SETTINGS.json"
MANIFEST_FILE = "MANIFEST.json"
TOKENS_COMMIT = "commits/tokens.json"
ASKED = ("num_sequences", "held_out", "non_finite", "max_norm")  # settings a manifest repeats
_END = b"\n}\n"
_SEAL = b',\n "sha256": "%s"' + _END  # at the end of each file


def commit_file(unit: int) -> str:
    """Path, inside the store, of a shard's commit."""
    return f"commits/{unit:05d}.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRecord:
    """Size and CRC-32 (`store.checksum`) of one whole file; the CRC-32C of each of its chunks.

    A reader compares what it read with `chunk_crc32c`, eight hexadecimal digits a chunk: a chunk
    that is whole, but of another shard, is not what was committed.
    """

    bytes: int
    crc32: str
    chunk_crc32c: str


def _files(value: dict[str, Any]) -> dict[str, FileRecord]:
    return {path: FileRecord(**record) for path, record in value.items()}


def _dropped_json(dropped: Dropped | None) -> dict[str, Any]:
    """No entry where nothing was dropped: such a store is as those of before there was one."""
    return {} if dropped is None else {"dropped": dropped.to_json()}


def _dropped(value: dict[str, Any]) -> Dropped | None:
    return Dropped.from_json(value["dropped"]) if "dropped" in value else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What a store was started with; `num_sequences` None means as many as come."""

    num_sequences: int | None
    sequence_length: int
    shard_sequences: int
    chunk_sequences: int
    chunk_positions: int
    dtype: FloatDtype
    held_out: float
    widths: dict[str, int]
    provenance: dict[str, Any]
    non_finite: NonFinite
    max_norm: float | None

    def layout(self, num_sequences: int) -> Layout:
        """The store's grid for a known number of sequences."""
        return Layout(
            num_sequences=num_sequences,
            sequence_length=self.sequence_length,
            shard_sequences=self.shard_sequences,
            chunk_sequences=self.chunk_sequences,
            chunk_positions=self.chunk_positions,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        fields = {key: value[key] for key in value if key != "format"}
        enums = {"dtype": FloatDtype(value["dtype"]), "non_finite": NonFinite(value["non_finite"])}
        return cls(**{**fields, **enums})


@dataclass(frozen=True, kw_only=True, slots=True)
class TokensCommit:
    """The tokens are all written: how many sequences, of which corpus, in which files."""

    num_sequences: int
    fingerprint: dict[str, Any]
    files: dict[str, FileRecord]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(**{**value, "files": _files(value["files"])})


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardCommit:
    """One unit is written at every site: its files, trainable tokens a chunk, and sums a site.

    What was dropped is counted in neither.
    """

    files: dict[str, FileRecord]
    trainable_per_chunk: list[int]
    statistics: dict[str, Statistics]
    dropped: Dropped | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "files": {path: asdict(record) for path, record in self.files.items()},
            "trainable_per_chunk": self.trainable_per_chunk,
            "statistics": {site: value.to_json() for site, value in self.statistics.items()},
            **_dropped_json(self.dropped),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(
            files=_files(value["files"]),
            trainable_per_chunk=value["trainable_per_chunk"],
            statistics={s: Statistics.from_json(v) for s, v in value["statistics"].items()},
            dropped=_dropped(value),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteRecord:
    """One site: its width, and the statistics of its trainable tokens in training shards.

    `dropped` tokens of all shards are left out because of this site.
    """

    width: int
    statistics: Statistics
    dropped: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; nothing is said where nothing was dropped."""
        value = {"width": self.width, "statistics": self.statistics.to_json()}
        return {**value, "dropped": self.dropped} if self.dropped else value


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardRecord:
    """One unit: its files at every site and of tokens, and trainable tokens a chunk."""

    unit: int
    files: dict[str, FileRecord]
    trainable_per_chunk: list[int]
    dropped: Dropped | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "unit": self.unit,
            "files": {path: asdict(record) for path, record in self.files.items()},
            "trainable_per_chunk": self.trainable_per_chunk,
            **_dropped_json(self.dropped),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(**{**value, "files": _files(value["files"]), "dropped": _dropped(value)})


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """Everything a reader trusts. `metadata` holds the sha256 of each array's zarr.json.

    `asked` are those settings that nothing else here implies.
    """

    layout: Layout
    dtype: FloatDtype
    sites: dict[str, SiteRecord]
    shards: list[ShardRecord]
    held_out: list[int]
    provenance: dict[str, Any]
    metadata: dict[str, str]
    asked: dict[str, Any]
    format: int = field(default=FORMAT)

    @property
    def widths(self) -> dict[str, int]:
        """Width of each site."""
        return {site: record.width for site, record in self.sites.items()}

    @property
    def hash(self) -> str:
        """sha256 of the canonical JSON: equal stores have equal hashes."""
        return hashlib.sha256(to_json(self.to_json())).hexdigest()

    @property
    def settings(self) -> Settings:
        """What the store was started with."""
        grid = {key: value for key, value in asdict(self.layout).items() if key != "num_sequences"}
        return Settings(
            **grid,
            **self.asked,
            dtype=self.dtype,
            widths=self.widths,
            provenance={k: v for k, v in self.provenance.items() if k != "tokens"},
        )

    @property
    def tokens(self) -> TokensCommit:
        """The commit of the tokens."""
        files = {
            path: record
            for shard in self.shards
            for path, record in shard.files.items()
            if path.startswith("tokens/")
        }
        return TokensCommit(
            num_sequences=self.layout.num_sequences,
            fingerprint=self.provenance.get("tokens", {}),
            files=files,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "format": self.format,
            **asdict(self.layout),
            "dtype": self.dtype.value,
            "sites": {site: record.to_json() for site, record in self.sites.items()},
            "shards": [shard.to_json() for shard in self.shards],
            "held_out": self.held_out,
            "provenance": self.provenance,
            "metadata": self.metadata,
            "asked": self.asked,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        sites = {
            site: SiteRecord(
                width=record["width"],
                statistics=Statistics.from_json(record["statistics"]),
                dropped=record.get("dropped", 0),
            )
            for site, record in value["sites"].items()
        }
        return cls(
            layout=Layout(**{name: value[name] for name in Layout.__dataclass_fields__}),
            dtype=FloatDtype(value["dtype"]),
            sites=sites,
            shards=[ShardRecord.from_json(record) for record in value["shards"]],
            **{name: value[name] for name in ("format", "held_out", "metadata")},
            provenance=dict(value["provenance"].items()),
            asked={
                **{name: value["asked"][name] for name in ASKED},
                "non_finite": NonFinite(value["asked"]["non_finite"]),
            },
        )


Record = Settings | TokensCommit | ShardCommit | Manifest
AnyRecord = TypeVar("AnyRecord", Settings, TokensCommit, ShardCommit, Manifest)


def dump(record: Record) -> bytes:
    """The bytes of a JSON file of a store; its last entry is the sha256 of all the others."""
    plain = to_json(record.to_json())
    return plain.removesuffix(_END) + _SEAL % hashlib.sha256(plain).hexdigest().encode()


def load(path: Path, kind: type[AnyRecord]) -> AnyRecord:
    """Read one JSON file of a store; FaultError naming it when it is not what `dump` wrote.

    Nothing is parsed before the sha256 is found right. Raises FileNotFoundError if there is none.
    """
    if (fault := odd_file(path)) is not None:
        raise FaultError(fault)
    data = path.read_bytes()
    plain = data[: -len(_SEAL % (b"0" * 64))] + _END
    if data != plain.removesuffix(_END) + _SEAL % hashlib.sha256(plain).hexdigest().encode():
        raise _fault(path, "altered (its last line is not the sha256 of the others)")
    try:
        value = json.loads(plain)
        if value.get("format", FORMAT) == FORMAT:
            return kind.from_json(value)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise _fault(path, f"malformed ({error!r})"[:200]) from error
    remedy = "read it with the version of sae_dist that wrote it"
    found = f"in format {value['format']!r}"[:80]
    raise FaultError(Fault(path=path, found=found, expected=f"format {FORMAT}", remedy=remedy))


def _fault(path: Path, found: str) -> FaultError:
    return FaultError(Fault(path=path, found=found, expected="the bytes that were committed"))
