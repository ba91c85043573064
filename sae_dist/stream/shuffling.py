"""How well an order mixes documents: from the order alone, nothing is read."""

from collections.abc import Iterable
from math import exp, lgamma

import numpy as np

from sae_dist.store.layout import Layout
from sae_dist.store.unit import row_order
from sae_dist.stream.order import TokenOrder


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
