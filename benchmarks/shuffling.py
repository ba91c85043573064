"""How well the stream mixes documents: distinct ones in a batch beside a full permutation's.

Made-up stores of bfloat16 and documents of log-normal lengths, one after the other. Pure
arithmetic: no machine changes these figures.
"""

from collections.abc import Iterator

import numpy as np

from benchmarks.figures import Figure
from sae_dist.store import StoreConfig
from sae_dist.store.layout import Layout
from sae_dist.store.records import choose_settings
from sae_dist.stream import BatchPart, StreamConfig, TokenOrder
from sae_dist.stream.shuffling import Rows, distinct_share

TOKENS, BATCH = 100_000_000, 4096
_SHARES = (0.01, 0.4, 0.8)  # of an epoch's steps
_GRIDS = ((512, 128), (512, 1024), (512, 2048), (2304, 1024), (4096, 4096))
SMOKE = {"tokens": 2_000_000, "batches": ()}


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
