"""The sequences that training never reads, whole and in order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch

from sae_dist.common.dtypes import from_storage
from sae_dist.common.errors import UserError
from sae_dist.store import Store
from sae_dist.stream.ahead import Ahead


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HeldOutBatch:
    """Consecutive held-out sequences, the first being number `sequence` of the store.

    `input_ids` int64 [n, S], `trainable` bool [n, S], `acts[site]` [n, S, d] as stored.
    """

    sequence: int
    input_ids: torch.Tensor
    trainable: torch.Tensor
    acts: dict[str, torch.Tensor]

    def cut(self, first: int, stop: int) -> Self:
        """Some of the sequences, counted from the batch's first; no copy."""
        return replace(
            self,
            sequence=self.sequence + first,
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
) -> Iterator[HeldOutBatch]:
    """Yield this part's run of the held-out sequences, as many at once as fill a chunk.

    `max_sequences` takes the first so many of the store's held-out sequences, however many parts
    share them; their numbers differ by one at most. Raises UserError when the store has none, and
    for unknown sites.

    A chunk has few positions of many sequences, so that these are read together: all sequences of a
    shard that share chunks. Memory, at most: three such blocks at `sites` (the one given out, the
    one before while a batch of it is held, and one read ahead in a thread), and one chunk.
    """
    for site in sites:
        store.statistics(site)
    if not (blocks := store.held_out_sequences()):
        raise UserError(
            f"found no held-out shard in {store.path}; expected one; harvest with held_out > 0"
        )
    return _read_ahead(store, sites, _deal(blocks, part, parts, max_sequences))


def _deal(blocks: list[range], part: int, parts: int, max_sequences: int | None) -> list[range]:
    """What one part reads of each block, where it reads any."""
    total = sum(map(len, blocks))
    total = total if max_sequences is None else min(total, max_sequences)
    first, stop = part * total // parts, (part + 1) * total // parts
    dealt, before = [], 0
    for block in blocks:
        dealt.append(block[max(0, first - before) : max(0, stop - before)])
        before += len(block)
    return [block for block in dealt if block]


def _read_ahead(store: Store, sites: Sequence[str], blocks: list[range]) -> Iterator[HeldOutBatch]:
    ahead = Ahead((_read(store, sites, block) for block in blocks), depth=1)
    size = max(1, store.layout.chunk_tokens // store.layout.sequence_length)
    try:
        for block in ahead:
            for first in range(0, len(block.input_ids), size):
                yield block.cut(first, first + size)
    finally:
        ahead.close()


def _read(store: Store, sites: Sequence[str], sequences: range) -> HeldOutBatch:
    ids, trainable = store.read_tokens(sequences)
    return HeldOutBatch(
        sequence=sequences.start,
        input_ids=torch.from_numpy(ids).long(),
        trainable=torch.from_numpy(trainable),
        acts={s: from_storage(store.read_sequences(s, sequences), store.dtype) for s in sites},
    )
