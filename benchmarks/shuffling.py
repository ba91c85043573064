"""How well the stream mixes documents: distinct ones in a batch beside a full permutation's.

    python -m benchmarks.shuffling

Made-up stores of bfloat16 and documents of log-normal lengths, one after the other. Pure
arithmetic: no machine changes these figures.
"""

import argparse
from dataclasses import replace

import numpy as np

from sae_dist.store import StoreConfig
from sae_dist.store.layout import Layout
from sae_dist.store.records import choose_settings
from sae_dist.stream import BatchPart, StreamConfig, TokenOrder
from sae_dist.stream.shuffling import Rows, distinct_share

TOKENS, BATCH = 100_000_000, 4096
_SHARES = (0.01, 0.4, 0.8)  # of an epoch's steps


def documents(mean_tokens: int, num_tokens: int, sigma: float = 1.0) -> np.ndarray:
    """First tokens of documents of log-normal lengths, and the end of the last."""
    dice = np.random.default_rng(0)
    scale = np.log(mean_tokens) - sigma**2 / 2
    lengths = np.maximum(1, dice.lognormal(scale, sigma, 2 * num_tokens // mean_tokens)).astype(int)
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


def _table(title: str, shares: dict[str, tuple[float, float]]) -> None:
    print(f"\n| {title} | 60 tokens a document | 600 |\n|--|--:|--:|")
    for name, (short, long) in shares.items():
        print(f"| {name} | {short:.3f} | {long:.3f} |", flush=True)


def _both(
    layout: Layout, config: StreamConfig | None = None, batch: int = BATCH
) -> tuple[float, float]:
    return share(layout, 60, config, batch), share(layout, 600, config, batch)


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    defaults = StreamConfig()
    shapes = [(512, 128), (512, 1023), (512, 1024), (512, 2048), (2304, 1024), (4096, 4096)]
    grids = {
        f"width {width}, {positions} positions: chunks of {layout.chunk_rows}": layout
        for width, positions in shapes
        for layout in [layout_of(width, positions)]
    }
    _table("defaults", {name: _both(layout) for name, layout in grids.items()})
    buckets = {f"2^{n}": replace(defaults, bucket_tokens=2**n) for n in (18, 20, 22)}
    _table("bucket_tokens", {name: _both(layout_of(), config) for name, config in buckets.items()})
    sizes = {f"{n:,}": layout_of(tokens=n) for n in (1_000_000, 4_000_000, 25_000_000, 10**9)}
    _table("tokens in the store", {name: _both(layout) for name, layout in sizes.items()})
    batches = (1024, 8192, 16384, 32768)
    _table("batch_tokens", {str(batch): _both(layout_of(), None, batch) for batch in batches})


if __name__ == "__main__":
    main()
