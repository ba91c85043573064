"""How well the stream mixes documents: distinct ones in a batch beside a full permutation's.

Made-up stores of bfloat16 and documents of log-normal lengths, one after the other. Pure
arithmetic: no machine changes these figures.
"""

from collections.abc import Iterable, Iterator
from math import exp, lgamma

import numpy as np

from benchmarks.figures import Figure
from sae_dist.store import StoreConfig
from sae_dist.store.layout import Layout
from sae_dist.store.records import choose_settings
from sae_dist.store.unit import row_order
from sae_dist.stream import BatchPart, StreamConfig, TokenOrder

TOKENS, BATCH = 100_000_000, 4096
_SHARES = (0.01, 0.4, 0.8)  # of an epoch's steps
_GRIDS = ((512, 128), (512, 1024), (512, 2048), (2304, 1024), (4096, 4096))
SMOKE = {"tokens": 2_000_000, "batches": ()}


class Rows:
    """The rows of a store of some layout whose tokens are all trained on.

    `of_chunk` and `unit_of_chunk` are as `TokenOrder` takes them.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        lengths = [len(layout.sequences_of(unit)) for unit in range(layout.num_units)]
        rows_U = np.array(lengths) * layout.sequence_length
        chunks_U = -(-rows_U // layout.chunk_rows)
        self._first_U = np.cumsum(chunks_U) - chunks_U
        self.of_chunk = np.full(chunks_U.sum(), layout.chunk_rows)
        self.of_chunk[self._first_U + chunks_U - 1] = (rows_U - 1) % layout.chunk_rows + 1
        self.unit_of_chunk = np.repeat(np.arange(layout.num_units), chunks_U)

    def tokens(self, chunk: np.ndarray, offset: np.ndarray) -> np.ndarray:
        """Which tokens lie at some places in some chunks, counted through the store."""
        layout, found, unit_R = self._layout, np.empty_like(chunk), self.unit_of_chunk[chunk]
        for unit in np.unique(unit_R).tolist():
            sequences, here = layout.sequences_of(unit), unit_R == unit
            order = row_order(unit, np.ones((len(sequences), layout.sequence_length), bool))
            rows = (chunk[here] - self._first_U[unit]) * layout.chunk_rows + offset[here]
            found[here] = sequences.start * layout.sequence_length + order[rows]
        return found


def distinct_share(
    order: TokenOrder, rows: Rows, starts: np.ndarray, steps: Iterable[int]
) -> float:
    """Distinct documents in the batches of `steps`, over what full permutations would hold.

    `order` is that of `rows`; document i has the tokens (numbered by sequence, then by position)
    from `starts[i]` up to `starts[i + 1]`.
    """
    found = [
        len(np.unique(np.searchsorted(starts, batch_index(order, rows, step), side="right")))
        for step in steps
    ]
    return float(np.mean(found)) / expected_distinct(starts, order.batch_tokens)


def batch_index(order: TokenOrder, rows: Rows, step: int) -> np.ndarray:
    """Token numbers [B] of one global batch."""
    share = next(order.shares(step, slice(0, order.batch_tokens)))
    sizes = rows.of_chunk[share.chunks]
    ends = np.cumsum(sizes)
    place = np.searchsorted(ends, share.rows[0], side="right")
    return rows.tokens(share.chunks[place], share.rows[0] - (ends - sizes)[place])


def expected_distinct(starts: np.ndarray, num_drawn: int) -> float:
    """Mean number of distinct documents among rows drawn without replacement.

    A document of n of N rows is missed by B draws with the hypergeometric probability
    C(N - n, B) / C(N, B).
    """
    num_rows = int(starts[-1])
    lengths, counts = np.unique(np.diff(starts), return_counts=True)
    missed = [_missed(int(length), num_rows, num_drawn) for length in lengths]
    return float(counts @ (1 - np.array(missed)))


def _missed(length: int, num_rows: int, num_drawn: int) -> float:
    others = num_rows - length
    if others < num_drawn:
        return 0.0
    ways = [lgamma(total + 1) - lgamma(total - num_drawn + 1) for total in (others, num_rows)]
    return exp(ways[0] - ways[1])


def documents(mean_tokens: int, num_tokens: int, sigma: float = 1.0) -> np.ndarray:
    """First tokens of documents of log-normal lengths, and the end of the last."""
    rng = np.random.default_rng(0)
    scale = np.log(mean_tokens) - sigma**2 / 2
    lengths = np.maximum(1, rng.lognormal(scale, sigma, 2 * num_tokens // mean_tokens)).astype(int)
    ends = np.cumsum(lengths)
    return np.concatenate([[0], ends[ends < num_tokens], [num_tokens]])


def layout_of(
    width: int = 512, positions: int = 1024, tokens: int = TOKENS, config: StoreConfig | None = None
) -> Layout:
    """The grid that a store of one site gets, by default with the settings of `StoreConfig`."""
    count = tokens // positions
    settings = choose_settings({"x": width}, positions, config or StoreConfig(), {}, count)
    return settings.layout(count)


def share(
    layout: Layout, mean_tokens: int, config: StreamConfig | None = None, batch: int = BATCH
) -> float:
    """`distinct_share` in a store that is trained on whole, by default with `StreamConfig`."""
    rows = Rows(layout)
    part = BatchPart(batch, 0, config or StreamConfig())
    order = TokenOrder(rows.of_chunk, rows.unit_of_chunk, batch, part.bucket_tokens, seed=0)
    steps = [int(part * order.steps_in_epoch) for part in _SHARES]
    return distinct_share(order, rows, documents(mean_tokens, int(rows.of_chunk.sum())), steps)


def run(
    tokens: int = TOKENS, batches: tuple[int, ...] = (1024, 16384, 32768), small: int = 1_000_000
) -> Iterator[Figure]:
    """Shares of a permutation's distinct documents, at the defaults but for what is named."""

    def figure(name: str, layout: Layout, mean_tokens: int, batch: int = BATCH) -> Figure:
        name = f"{name}; documents of {mean_tokens} tokens"
        return Figure(name, share(layout, mean_tokens, batch=batch), "", target="≥ 0.98")

    for width, positions in _GRIDS:
        for mean_tokens in (60, 600):
            layout = layout_of(width, positions, tokens)
            yield figure(f"width {width:,}, {positions:,} positions", layout, mean_tokens)
    for batch in batches:
        yield figure(f"batch of {batch:,}", layout_of(tokens=tokens), 600, batch)
    yield figure(f"store of {small:,} tokens", layout_of(tokens=small), 600)
