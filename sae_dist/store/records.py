"""What the JSON files of a store say: settings, commits, and the manifest that readers trust.

Until the seal, settings and commits are the truth; sealing writes the manifest and removes them.
Each carries the sha256 of its own contents, so that a flipped bit is found in the file it is in.
"""

import base64
import hashlib
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np

from sae_dist.common.dtypes import FloatDtype
from sae_dist.store.config import NonFinite
from sae_dist.store.fault import Fault, FaultError
from sae_dist.store.files import Files
from sae_dist.store.layout import Layout
from sae_dist.store.statistics import Statistics

FORMAT = 4
SETTINGS_FILE = "SETTINGS.json"
MANIFEST_FILE = "MANIFEST.json"
SUMS_FILE = "SUMS.bin"
COPIES = "copy"  # of the manifest and the sums: the only records of a store that nothing else says
UNIT_COMMITS = "commits/units"
TOKENS = "commits/tokens"
TOKENS_END = f"{TOKENS}/end.json"
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


class TokensEnd(Record, frozen=True):
    """All tokens are there: how many sequences, of which corpus."""

    num_sequences: Positive
    fingerprint: dict[str, Any]


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
        sums: sha256 of SUMS.bin (`store.sums`).
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
    plain = msgspec.json.format(compact, indent=2)
    return plain.removesuffix(_END) + _SEAL % hashlib.sha256(plain).hexdigest().encode()


def digest(data: bytes) -> str:
    """The sha256 at the end of what `dump` gave."""
    return data[-len(_END) - 65 : -len(_END) - 1].decode()


def load(files: Files, name: str, kind: type[AnyRecord]) -> AnyRecord:
    """Read one JSON file of a store; see `parse`. Raises FileNotFoundError if there is none."""
    return parse(files.read(name), files.path(name), kind)


def parse(data: bytes, path: Any, kind: type[AnyRecord]) -> AnyRecord:
    """The record that a file holds; FaultError naming it when it is not what `dump` wrote.

    Nothing is parsed before the sha256 is found right.
    """
    plain = data[: -len(_SEAL % (b"0" * 64))] + _END
    if data != plain.removesuffix(_END) + _SEAL % hashlib.sha256(plain).hexdigest().encode():
        raise _fault(path, "altered (its last line is not the sha256 of the others)")
    try:
        found = msgspec.json.decode(plain)
        if isinstance(found, dict) and found.get("format", FORMAT) == FORMAT:
            return msgspec.convert(found, kind, dec_hook=_rich)
    except (ValueError, RecursionError) as error:  # msgspec's own are ValueErrors
        raise _fault(path, f"malformed ({error})"[:200]) from error
    said = f"in format {found.get('format')!r}" if isinstance(found, dict) else "malformed"
    remedy = "read it with the version of sae_dist that wrote it"
    raise FaultError(Fault(path=path, found=said[:80], expected=f"format {FORMAT}", remedy=remedy))


def _fault(path: Any, found: str) -> FaultError:
    return FaultError(Fault(path=path, found=found, expected="the bytes that were committed"))


def _plain(value: Any) -> Any:
    """Sums travel as base64 of little-endian float64, so that nothing is rounded."""
    if isinstance(value, np.ndarray):
        return base64.b64encode(value.astype("<f8").tobytes()).decode()
    raise NotImplementedError(type(value))


def _rich(kind: type, value: Any) -> Any:
    if kind is np.ndarray:
        return np.frombuffer(base64.b64decode(value, validate=True), "<f8").astype(np.float64)
    raise NotImplementedError(kind)
