"""The sequences that training never reads, whole and in order."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch

from sae_dist.common.dtypes import from_storage
from sae_dist.common.errors import UserError
from sae_dist.store import Store
from sae_dist.stream.prefetch import Prefetch


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HeldOutBatch:
    """Some held-out sequences, one after the other.

    `sequences` int64 [n], their numbers; `input_ids` int64 [n, S], `trainable` bool [n, S],
    `acts[site]` [n, S, d] as stored.
    """

    sequences: torch.Tensor
    input_ids: torch.Tensor
    trainable: torch.Tensor
    acts: dict[str, torch.Tensor]

    def __len__(self) -> int:
        return len(self.sequences)

    def cut(self, first: int, stop: int) -> Self:
        """Some of the sequences, counted from the batch's first; no copy."""
        return replace(
            self,
            sequences=self.sequences[first:stop],
            input_ids=self.input_ids[first:stop],
            trainable=self.trainable[first:stop],
            acts={site: x_NSD[first:stop] for site, x_NSD in self.acts.items()},
        )


def held_out(
    store: Store,
    sites: Sequence[str],
    part: int = 0,
    parts: int = 1,
    max_sequences: int | None = None,
    batch_sequences: int = 1,
) -> Iterator[HeldOutBatch]:
    """Yield this part's run of the held-out sequences, `batch_sequences` at once.

    `max_sequences` takes the first so many of the store's held-out sequences. Batches are the same
    however the store is cut into files and however many parts share them: each gets whole ones, one
    more or less than the others. Raises UserError when the store has none, and for unknown sites.

    Memory, at most: three chunks' worth of sequences at `sites` (those given out, those before
    while a batch of them is held, and those read ahead in a thread), one chunk, and a batch.
    """
    for site in sites:
        store.statistics(site)
    if not (num_held_out := sum(map(len, store.held_out))):
        raise UserError(
            f"found no held-out shard in {store.path}; expected one; harvest with held_out > 0"
        )
    own = share_of(num_held_out, part, parts, max_sequences, batch_sequences)
    blocks = (_read(store, sites, block) for block in _blocks(store, own))
    return _ahead(blocks, batch_sequences)


def share_of(
    num_held_out: int, part: int, parts: int, max_sequences: int | None, batch_sequences: int
) -> range:
    """Which of the held-out sequences, counted from 0, one part reads: whole batches."""
    total = num_held_out if max_sequences is None else min(num_held_out, max_sequences)
    num_batches = -(-total // batch_sequences)
    bounds = (batch_sequences * (p * num_batches // parts) for p in (part, part + 1))
    return range(*(min(bound, total) for bound in bounds))


def in_batches(blocks: Iterable[HeldOutBatch], size: int) -> Iterator[HeldOutBatch]:
    """The blocks' sequences, `size` at once until fewer are left."""
    pieces: list[HeldOutBatch] = []
    for block in blocks:
        first = 0
        while first < len(block):
            piece = block.cut(first, first + size - sum(map(len, pieces)))
            pieces.append(piece)
            first += len(piece)
            if sum(map(len, pieces)) == size:
                yield _joined(pieces)
                pieces = []
    if pieces:
        yield _joined(pieces)


def _joined(pieces: list[HeldOutBatch]) -> HeldOutBatch:
    if len(pieces) == 1:
        return pieces[0]
    return HeldOutBatch(
        sequences=torch.cat([piece.sequences for piece in pieces]),
        input_ids=torch.cat([piece.input_ids for piece in pieces]),
        trainable=torch.cat([piece.trainable for piece in pieces]),
        acts={site: torch.cat([piece.acts[site] for piece in pieces]) for site in pieces[0].acts},
    )


def _blocks(store: Store, own: range) -> Iterator[range]:
    """What `own` counts of all held-out sequences, those of a chunk together."""
    size, before = store.layout.chunk_sequences, 0
    for unit in store.held_out:
        for block in (unit[first : first + size] for first in range(0, len(unit), size)):
            if found := block[max(0, own.start - before) : max(0, own.stop - before)]:
                yield found
            before += len(block)


def _ahead(blocks: Iterator[HeldOutBatch], batch_sequences: int) -> Iterator[HeldOutBatch]:
    ahead = Prefetch(blocks, depth=1)
    try:
        yield from in_batches(ahead, batch_sequences)
    finally:
        ahead.close()


def _read(store: Store, sites: Sequence[str], sequences: range) -> HeldOutBatch:
    ids, trainable = store.read_tokens(sequences)
    return HeldOutBatch(
        sequences=torch.arange(sequences.start, sequences.stop),
        input_ids=torch.from_numpy(ids).long(),
        trainable=torch.from_numpy(trainable),
        acts={s: from_storage(store.read_sequences(s, sequences), store.dtype) for s in sites},
    )
