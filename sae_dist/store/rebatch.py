"""Blocks of any lengths, cut anew into blocks of one length."""

from collections.abc import Iterable, Iterator

import numpy as np

Arrays = tuple[np.ndarray, ...]


def rebatch(blocks: Iterable[Arrays], length: int, limit: int | None = None) -> Iterator[Arrays]:
    """Yield the rows of `blocks` (tuples of arrays with equal numbers of rows) `length` at a time.

    The last block may be shorter; at most `limit` rows are taken, and no block is drawn that is
    not needed. Memory: one new block and one given block.
    """
    parts: list[Arrays] = []
    held = 0
    for block in blocks:
        rows = len(block[0]) if limit is None else min(len(block[0]), limit)
        limit = None if limit is None else limit - rows
        start = 0
        while start < rows:
            stop = min(rows, start + length - held)
            parts.append(tuple(array[start:stop] for array in block))
            held += stop - start
            start = stop
            if held == length:
                yield _joined(parts)
                parts, held = [], 0
        if limit == 0:
            break
    if parts:
        yield _joined(parts)


def _joined(parts: list[Arrays]) -> Arrays:
    return tuple(np.concatenate(columns) for columns in zip(*parts, strict=True))
