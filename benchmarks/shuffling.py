"""How well the stream mixes documents: distinct ones in a batch beside a full permutation's.

    python -m benchmarks.shuffling

A made-up store of 100M tokens at 1024 positions and width 512 in bfloat16 (chunks of 4096 tokens,
4 MiB), and documents of log-normal lengths. Pure arithmetic: no machine changes these figures.
"""

import numpy as np

from sae_dist.stream.order import TokenOrder
from sae_dist.stream.shuffling import distinct_share

CHUNK, TOKENS, BATCH = 4096, 100_000_000, 4096
STEPS = (1, 77, 1234)


def documents(mean_tokens: int, num_tokens: int, sigma: float = 1.0) -> np.ndarray:
    """First rows of documents of log-normal lengths, and the end of the last."""
    dice = np.random.default_rng(0)
    scale = np.log(mean_tokens) - sigma**2 / 2
    lengths = np.maximum(1, dice.lognormal(scale, sigma, 2 * num_tokens // mean_tokens)).astype(int)
    ends = np.cumsum(lengths)
    return np.concatenate([[0], ends[ends < num_tokens], [num_tokens]])


def share(
    lanes: int, bucket_tokens: int, mean_tokens: int, tokens: int = TOKENS, batch: int = BATCH
) -> float:
    """`distinct_share` of a store with whole chunks, with the settings of `StreamConfig`."""
    rows = np.full(tokens // CHUNK, CHUNK)
    order = TokenOrder(rows, lanes, max(1, bucket_tokens // (lanes * CHUNK)), batch, seed=0)
    return distinct_share(order, rows, documents(mean_tokens, int(rows.sum())), STEPS)


def main() -> None:
    print("| tokens a document | lanes | bucket_tokens | share of a full permutation's |")
    print("|--:|--:|--:|--:|")
    for mean_tokens in (60, 600):
        for lanes in (16, 64, 256):
            for power in (20, 22, 24, 25):
                value = share(lanes, 2**power, mean_tokens)
                print(f"| {mean_tokens} | {lanes} | 2^{power} | {value:.3f} |", flush=True)
    print("\n| tokens in the store | batch_tokens | share, 600 tokens a document, defaults |")
    print("|--:|--:|--:|")
    for tokens in (1_000_000, 4_000_000, 25_000_000, TOKENS):
        for batch in (1024, BATCH):
            value = share(64, 2**20, 600, tokens, batch)
            print(f"| {tokens:,} | {batch} | {value:.3f} |", flush=True)


if __name__ == "__main__":
    main()
