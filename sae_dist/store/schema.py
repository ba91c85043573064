"""What the JSON files of a store say: settings, commits, and the manifest that readers trust."""

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from sae_dist.common.dtypes import FloatDtype
from sae_dist.common.errors import UserError
from sae_dist.common.files import read_json, to_json
from sae_dist.store.layout import Layout
from sae_dist.store.links import file_problem
from sae_dist.store.statistics import Statistics

FORMAT = 1
SETTINGS_FILE = "SETTINGS.json"
MANIFEST_FILE = "MANIFEST.json"
TOKENS_COMMIT = "commits/tokens.json"


def commit_file(unit: int) -> str:
    """Path, inside the store, of a shard's commit."""
    return f"commits/{unit:05d}.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRecord:
    """Size and CRC-32 (`store.checksum`) of one whole file."""

    bytes: int
    crc32: str


def _files(value: dict[str, Any]) -> dict[str, FileRecord]:
    return {path: FileRecord(**record) for path, record in value.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What a store was started with; `num_sequences` None means as many as come."""

    num_sequences: int | None
    sequence_length: int
    shard_sequences: int
    chunk_sequences: int
    dtype: FloatDtype
    held_out: float
    widths: dict[str, int]
    provenance: dict[str, Any]

    def layout(self, num_sequences: int) -> Layout:
        """The store's grid for a known number of sequences."""
        return Layout(
            num_sequences=num_sequences,
            sequence_length=self.sequence_length,
            shard_sequences=self.shard_sequences,
            chunk_sequences=self.chunk_sequences,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        fields = {key: value[key] for key in value if key != "format"}
        return cls(**{**fields, "dtype": FloatDtype(value["dtype"])})


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
    """One unit is written at every site: its files, trainable tokens a chunk, and sums a site."""

    files: dict[str, FileRecord]
    trainable_per_chunk: list[int]
    statistics: dict[str, Statistics]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "files": {path: asdict(record) for path, record in self.files.items()},
            "trainable_per_chunk": self.trainable_per_chunk,
            "statistics": {site: value.to_json() for site, value in self.statistics.items()},
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(
            files=_files(value["files"]),
            trainable_per_chunk=value["trainable_per_chunk"],
            statistics={s: Statistics.from_json(v) for s, v in value["statistics"].items()},
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteRecord:
    """One site: its width, and the statistics of its trainable tokens in training shards."""

    width: int
    statistics: Statistics


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardRecord:
    """One unit: its files at every site and of tokens, and trainable tokens a chunk."""

    unit: int
    files: dict[str, FileRecord]
    trainable_per_chunk: list[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """Everything a reader trusts. `metadata` holds the sha256 of each array's zarr.json."""

    layout: Layout
    dtype: FloatDtype
    sites: dict[str, SiteRecord]
    shards: list[ShardRecord]
    held_out: list[int]
    provenance: dict[str, Any]
    metadata: dict[str, str]
    format: int = field(default=FORMAT)

    @property
    def widths(self) -> dict[str, int]:
        """Width of each site."""
        return {site: record.width for site, record in self.sites.items()}

    @property
    def hash(self) -> str:
        """sha256 of the canonical JSON: equal stores have equal hashes."""
        return hashlib.sha256(to_json(self.to_json())).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        sites = {
            site: {"width": record.width, "statistics": record.statistics.to_json()}
            for site, record in self.sites.items()
        }
        return {
            "format": self.format,
            **asdict(self.layout),
            "dtype": self.dtype.value,
            "sites": sites,
            "shards": [asdict(shard) for shard in self.shards],
            "held_out": self.held_out,
            "provenance": self.provenance,
            "metadata": self.metadata,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        sites = {
            site: SiteRecord(
                width=record["width"], statistics=Statistics.from_json(record["statistics"])
            )
            for site, record in value["sites"].items()
        }
        shards = [
            ShardRecord(**{**record, "files": _files(record["files"])})
            for record in value["shards"]
        ]
        return cls(
            layout=Layout(**{name: value[name] for name in Layout.__dataclass_fields__}),
            dtype=FloatDtype(value["dtype"]),
            sites=sites,
            shards=shards,
            **{name: value[name] for name in ("format", "held_out", "provenance", "metadata")},
        )


_Record = TypeVar("_Record", Settings, TokensCommit, ShardCommit, Manifest)


def load(path: Path, kind: type[_Record]) -> _Record:
    """Read one JSON file of a store; UserError naming it when it is not what it should be."""
    if odd := file_problem(path):
        raise UserError(odd)
    try:
        value = read_json(path)
        found = value.get("format", FORMAT)
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"found {path} unreadable ({error}); restore it or the store") from error
    if found != FORMAT:
        raise UserError(
            f"found store format {found} in {path}; expected {FORMAT}; "
            "read it with the version of sae_dist that wrote it"
        )
    try:
        return kind.from_json(value)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"found {path} malformed ({error!r}); restore it or the store") from error
