"""The sequences that training never reads, whole and in order."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import torch

from sae_dist.common.dtypes import from_storage
from sae_dist.common.errors import UserError
from sae_dist.stream.prefetch import Prefetch

if TYPE_CHECKING:
    from sae_dist.store import Store


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


@dataclass(frozen=True, slots=True)
class HeldOutPart:
    """One of several parts of the first held-out sequences.

    Batches are the same however many parts share them: each gets whole ones, one more or less than
    the others.

    Attributes:
        part, parts: which of how many.
        max_sequences: that all parts share; None: all there are.
        batch_sequences: that are given out at once.
        done: batches, by their numbers in all parts, that need not be given out.
    """

    part: int = 0
    parts: int = 1
    max_sequences: int | None = None
    batch_sequences: int = 1
    done: frozenset[int] = frozenset()

    def of(self, num_held_out: int) -> range:
        """This part of so many sequences."""
        asked, size = self.max_sequences, self.batch_sequences
        total = num_held_out if asked is None else min(num_held_out, asked)
        bounds = (size * (p * -(-total // size) // self.parts) for p in (self.part, self.part + 1))
        return range(*(min(bound, total) for bound in bounds))

    def left(self, num_held_out: int) -> list[range]:
        """The same without the batches that are done; neighbours are one range."""
        own, size, found = self.of(num_held_out), self.batch_sequences, list[range]()
        for start in own[::size]:
            if start // size not in self.done:
                is_next = bool(found) and found[-1].stop == start
                first = found.pop().start if is_next else start
                found.append(range(first, min(start + size, own.stop)))
        return found


_ALL = HeldOutPart()


def held_out(
    store: "Store", sites: Sequence[str], part: HeldOutPart = _ALL
) -> Iterator[HeldOutBatch]:
    """Yield a part of a store's held-out sequences; batches do not depend on its files.

    Raises UserError when the store has none, and for unknown sites.

    Memory, at most: three chunks' worth of sequences at `sites` (those given out, those before
    while a batch of them is held, and those read ahead in a thread), one chunk, and a batch.
    """
    for site in sites:
        store.statistics(site)
    if not (num_held_out := sum(map(len, store.held_out))):
        raise UserError(
            f"found no held-out shard in {store.path}; expected one; harvest with held_out > 0"
        )
    own = part.left(num_held_out)
    blocks = (_read(store, sites, block) for one in own for block in _blocks(store, one))
    return _ahead(blocks, part.batch_sequences)


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


def _blocks(store: "Store", own: range) -> Iterator[range]:
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


def _read(store: "Store", sites: Sequence[str], sequences: range) -> HeldOutBatch:
    ids, trainable = store.read_tokens(sequences)
    return HeldOutBatch(
        sequences=torch.arange(sequences.start, sequences.stop),
        input_ids=torch.from_numpy(ids).long(),
        trainable=torch.from_numpy(trainable),
        acts={s: from_storage(store.read_sequences(s, sequences), store.dtype) for s in sites},
    )
