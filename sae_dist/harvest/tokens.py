"""Tokens of one unit after the other, written by a thread ahead of the language model."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np

from sae_dist.common.disk import explain_disk_errors
from sae_dist.store import StoreWriter


@dataclass(frozen=True, slots=True, eq=False)
class UnitTokens:
    """One unit's ids int32 and trainable bool [n, S]; `begin` (JSON) is where it begins."""

    ids_NS: np.ndarray
    trainable_NS: np.ndarray
    begin: Any


@dataclass(frozen=True, slots=True)
class Text:
    """A tokenised corpus from some unit on: its units, and what to ask after the last."""

    units: Iterator[UnitTokens]
    fingerprint: Callable[[], dict[str, Any]]


Tokens = Callable[[int, Any], Text]
"""Starts the corpus at a unit that begins at a place (None: at the beginning)."""


class Tokeniser:
    """Writes the tokens that a store does not have yet, in a thread; a context manager.

    It goes on where another was killed. Several may do so at once, as all write the same. That the
    text ends is written before its last unit: who finds a unit's tokens knows how long it is.
    """

    def __init__(self, writer: StoreWriter, tokens: Tokens) -> None:
        self._writer, self._tokens = writer, tokens
        self._error: BaseException | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tokens", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ending.set()
        self._thread.join()

    def check(self) -> None:
        """Raise what ended the thread, if anything did."""
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            with explain_disk_errors(self._writer.path, self._writer.bytes_needed):
                self._write()
        except BaseException as error:
            if not self._writer.sealed:  # else what it needed has gone with the last commit
                self._error = error

    def _write(self) -> None:
        num_written, cursor = self._writer.tokens_written()
        if num_written == self._writer.num_units:
            return
        first = max(0, num_written - 1)  # the newest is made again: so one is always left
        text = self._tokens(first, cursor)
        num_sequences, last = first * self._writer.settings.shard_sequences, None
        for unit, tokens in enumerate(text.units, first):
            if self._ending.is_set():
                return
            if last is not None:
                self._put(unit - 1, last)
            num_sequences += len(tokens.ids_NS)
            last = tokens
        self._writer.end_tokens(num_sequences, text.fingerprint())
        if last is not None:
            self._put(unit, last)

    def _put(self, unit: int, tokens: UnitTokens) -> None:
        if not self._writer.has_tokens(unit):
            self._writer.put_tokens(unit, tokens.ids_NS, tokens.trainable_NS, tokens.begin)
