"""The sequences that training never reads, whole and in order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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


def held_out(
    store: Store,
    sites: Sequence[str],
    part: int = 0,
    parts: int = 1,
    max_sequences: int | None = None,
) -> Iterator[HeldOutBatch]:
    """Yield the held-out chunks [part::parts], read one ahead in a thread.

    `max_sequences` takes the first so many of the store's held-out sequences, however many parts
    share them. Raises UserError when the store has none, and for unknown sites.
    """
    for site in sites:
        store.statistics(site)
    if not store.held_out_chunks():
        raise UserError(
            f"found no held-out shard in {store.path}; expected one; harvest with held_out > 0"
        )
    return _read_ahead(store, sites, _deal(store, max_sequences)[part::parts])


def _deal(store: Store, max_sequences: int | None) -> list[tuple[int, int]]:
    """(chunk, sequences taken of it) of all parts together."""
    dealt: list[tuple[int, int]] = []
    for chunk in store.held_out_chunks():
        num = len(store.layout.sequences_of_chunk(chunk))
        if max_sequences is not None:
            num = min(num, max_sequences)
            max_sequences -= num
        if num:
            dealt.append((chunk, num))
    return dealt


def _read_ahead(
    store: Store, sites: Sequence[str], dealt: list[tuple[int, int]]
) -> Iterator[HeldOutBatch]:
    ahead = Ahead((_read(store, sites, chunk, num) for chunk, num in dealt), depth=1)
    try:
        yield from ahead
    finally:
        ahead.close()


def _read(store: Store, sites: Sequence[str], chunk: int, num: int) -> HeldOutBatch:
    ids, trainable = store.read_tokens(chunk)
    return HeldOutBatch(
        sequence=store.layout.sequences_of_chunk(chunk).start,
        input_ids=torch.from_numpy(ids[:num]).long(),
        trainable=torch.from_numpy(trainable[:num]),
        acts={s: from_storage(store.read_chunk(s, chunk)[:num], store.dtype) for s in sites},
    )
