"""Tokens that wait for the activations of their unit: written ahead by one process, read by all.

A unit's tokens become part of the store with its activations. Until the seal they are kept here,
each unit's with the place in the text at which the next one begins.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from sae_dist.common.errors import UserError
from sae_dist.store.fault import Fault, FaultError
from sae_dist.store.files import Files
from sae_dist.store.records import TOKENS, TOKENS_END, Settings, TokensEnd, dump, load, tokens_file
from sae_dist.store.unit import require_tokens

_DIGEST_BYTES = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class TokensWritten:
    """How far the tokens are: units (from 0 on), the cursor after them, whether these are all."""

    num_units: int
    cursor: Any
    ended: bool


class _UnitTokens(msgspec.Struct, frozen=True):
    """`ids` are little-endian int32, `trainable` a byte each."""

    num_sequences: int
    ids: bytes
    trainable: bytes
    cursor: Any


class Tokens:
    """The tokens of the units of one store."""

    def __init__(self, files: Files, settings: Settings) -> None:
        self._files, self._settings = files, settings
        self._end: TokensEnd | None = None

    def put(self, unit: int, ids: np.ndarray, trainable: np.ndarray, cursor: Any) -> None:
        """Write one unit's tokens, unless they are there: ids int32 and trainable bool [n, S]."""
        require_tokens(self._settings, ids, trainable)
        record = _UnitTokens(
            len(ids), ids.astype("<i4").tobytes(), trainable.astype(np.uint8).tobytes(), cursor
        )
        data = msgspec.msgpack.encode(record)
        self._files.create(tokens_file(unit), data + hashlib.sha256(data).digest())

    def end(self, num_sequences: int, fingerprint: dict[str, Any]) -> None:
        """Write how many sequences there are, and what the text was; unless that is there."""
        if num_sequences == 0:
            raise UserError("found no sequence; expected at least one; check the input")
        end = TokensEnd(num_sequences=num_sequences, fingerprint=fingerprint)
        self._files.create(TOKENS_END, dump(end))

    def get(self, unit: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids int32, trainable bool) [n, S] of one unit. Raises UserError while there are none."""
        try:
            record = self._load(unit)
        except FileNotFoundError as error:
            raise UserError(
                f"found no {tokens_file(unit)} in {self._files.path()}; expected the tokens first; "
                "write them"
            ) from error
        shape = (record.num_sequences, self._settings.sequence_length)
        ids = np.frombuffer(record.ids, "<i4").reshape(shape).astype(np.int32)
        return ids, np.frombuffer(record.trainable, np.uint8).reshape(shape).astype(bool)

    def written(self) -> TokensWritten:
        """How far they are, by one listing and one file."""
        units = self.units()
        num = next(n for n in range(len(units) + 1) if n not in units)
        cursor = self._load(num - 1).cursor if num else None
        return TokensWritten(num_units=num, cursor=cursor, ended=self.load_end() is not None)

    def units(self) -> set[int]:
        """Those whose tokens are there."""
        return {int(name) for name in self._files.list(TOKENS) if name.isdigit()}

    def load_end(self) -> TokensEnd | None:
        """What is known once all are written; read once, since it never changes."""
        if self._end is None and self._files.exists(TOKENS_END):
            self._end = load(self._files, TOKENS_END, TokensEnd)
        return self._end

    def _load(self, unit: int) -> _UnitTokens:
        """Raises FaultError for one that was altered, FileNotFoundError if there is none."""
        data = self._files.read(tokens_file(unit))
        content, found = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
        try:
            if found == hashlib.sha256(content).digest():
                return msgspec.msgpack.decode(content, type=_UnitTokens)
        except msgspec.MsgspecError:
            pass
        path = self._files.path(tokens_file(unit))
        raise FaultError(
            Fault(path=path, found="altered", expected="the tokens that were written", unit=unit)
        )
