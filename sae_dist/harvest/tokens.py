"""Tokens of one unit after the other, written by a thread ahead of the language model."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event
from typing import Any

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


@contextmanager
def tokenised(writer: StoreWriter, tokens: Tokens) -> Iterator[Callable[[], None]]:
    """While inside, write the tokens that a store does not have yet, in a thread.

    It goes on where another was killed. Several may do so at once, as all write the same. What is
    yielded raises what ended the thread, if anything did.
    """
    ending = Event()

    def write() -> None:
        try:
            with explain_disk_errors(writer.path, writer.bytes_needed):
                _write(writer, tokens, ending)
        except Exception:
            if not writer.sealed:  # else what it needed has gone with the last commit
                raise

    with ThreadPoolExecutor(1, "tokens") as thread:
        writing = thread.submit(write)
        try:
            yield lambda: writing.result() if writing.done() else None
        finally:
            ending.set()


def _write(writer: StoreWriter, tokens: Tokens, ending: Event) -> None:
    """Write unit by unit, the text's end before its last one: so who finds that knows the end."""
    num_written, cursor = writer.tokens_written()
    if num_written == writer.num_units:
        return
    first = max(0, num_written - 1)  # the newest is made again: so one is always left
    text = tokens(first, cursor)
    num_sequences, last = first * writer.settings.shard_sequences, None
    for unit, made in enumerate(text.units, first):
        if ending.is_set():
            return
        if last is not None:
            _put(writer, unit - 1, last)
        num_sequences += len(made.ids_NS)
        last = made
    writer.end_tokens(num_sequences, text.fingerprint())
    if last is not None:
        _put(writer, unit, last)


def _put(writer: StoreWriter, unit: int, tokens: UnitTokens) -> None:
    if not writer.has_tokens(unit):
        writer.put_tokens(unit, tokens.ids_NS, tokens.trainable_NS, tokens.begin)
