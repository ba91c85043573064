"""Which rows make up which global batch: a pure function of the rows of each chunk and a seed.

Every epoch puts the chunks into a new order, in which each unit's chunks are spread evenly, and
joins their rows to one long line. It is cut into buckets of whole batches, and a bucket into as
many groups of neighbours as a batch has rows: each of its batches takes one row of every group, in
an order drawn anew. So a batch holds rows of all chunks of its bucket alike, and neighbouring rows
of a batch lie in neighbouring chunks: whoever serves a part of the batch reads a part of the
bucket, and a batch is the same however many serve it. Any step is found without those before it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sae_dist.common.errors import UserError
from sae_dist.common.seeds import generator


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """Which chunks hold a part of a bucket's batches, and where.

    `rows` int64 [steps, rows of the part] counts through the rows of `chunks` in their order.
    """

    chunks: np.ndarray
    rows: np.ndarray


class TokenOrder:
    """The order of rows for ever, epoch after epoch.

    What is left of an epoch's rows after its last whole batch is dropped until the next, which has
    another order.

    Args:
        rows_per_chunk: int64 [chunks], of the chunks in play.
        unit_of_chunk: int64 [chunks], ascending: chunks of a unit hold parts of the same documents.
        batch_tokens: rows of a global batch.
        bucket_tokens: that are mixed with each other, at most; a batch at least.
        seed: of the order.

    Raises:
        UserError: there are too few rows for a batch.
    """

    def __init__(
        self,
        rows_per_chunk: np.ndarray,
        unit_of_chunk: np.ndarray,
        batch_tokens: int,
        bucket_tokens: int,
        seed: int,
    ) -> None:
        num_rows = int(np.sum(rows_per_chunk))
        if not 0 < batch_tokens <= num_rows:
            raise UserError(
                f"found {num_rows} training tokens; expected at least one global batch of "
                f"{batch_tokens}; lower batch_tokens or harvest more"
            )
        self.batch_tokens, self.steps_in_epoch = batch_tokens, num_rows // batch_tokens
        self._rows, self._units, self._seed = rows_per_chunk, unit_of_chunk, seed
        num_buckets = _num_buckets(self.steps_in_epoch, batch_tokens, bucket_tokens)
        self._first_steps = np.arange(num_buckets + 1) * self.steps_in_epoch // num_buckets
        self._epoch: tuple[int, np.ndarray, np.ndarray] | None = None  # the last asked for

    def locate(self, step: int) -> tuple[int, int]:
        """(epoch, step in that epoch) of a step counted from the very first."""
        return divmod(step, self.steps_in_epoch)

    def shares(self, step: int, part: slice) -> Iterator[Share]:
        """Rows `part` of every batch from `step` on, for ever, bucket by bucket."""
        epoch, done = self.locate(step)
        while True:
            first = int(np.searchsorted(self._first_steps, done, side="right")) - 1
            for bucket in range(first, len(self._first_steps) - 1):
                start, stop = self._first_steps[bucket : bucket + 2].tolist()
                share = self._share(epoch, start, stop, part)
                yield Share(share.chunks, share.rows[max(0, done - start) :])
            epoch, done = epoch + 1, 0

    def _share(self, epoch: int, start: int, stop: int, part: slice) -> Share:
        """One bucket's part: group g is rows [g · steps, (g + 1) · steps) of the bucket."""
        num_steps = stop - start
        rng = generator(self._seed, "bucket", epoch, start)
        groups = np.tile(np.arange(num_steps, dtype=np.int32), (self.batch_tokens, 1))
        own_GT = rng.permuted(groups, axis=1, out=groups)[part]
        first_row = start * self.batch_tokens + part.start * num_steps
        order, starts = self._in_epoch(epoch)
        left = int(np.searchsorted(starts, first_row, side="right")) - 1
        right = int(np.searchsorted(starts, first_row + own_GT.size))
        rows_TG = own_GT.T + (first_row - starts[left] + num_steps * np.arange(len(own_GT)))
        return Share(order[left:right], np.ascontiguousarray(rows_TG))

    def _in_epoch(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The order of chunks, and where each one's rows begin in it, and the last one's end."""
        if self._epoch is None or self._epoch[0] != number:
            order = spread_evenly(self._units, generator(self._seed, "epoch", number))
            self._epoch = number, order, np.concatenate([[0], np.cumsum(self._rows[order])])
        return self._epoch[1:]


def largest_bucket(num_rows: int, batch_tokens: int, bucket_tokens: int) -> int:
    """Batches of the largest bucket of an epoch."""
    num_steps = max(1, num_rows // batch_tokens)
    return -(-num_steps // _num_buckets(num_steps, batch_tokens, bucket_tokens))


def _num_buckets(num_steps: int, batch_tokens: int, bucket_tokens: int) -> int:
    """Buckets that are alike in length, none longer than is wanted, or than a batch."""
    return -(-num_steps // max(1, bucket_tokens // batch_tokens))


def spread_evenly(unit_of_chunk: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random order of the chunks in which those of a unit are evenly apart.

    Each unit's chunks are put into a random order, and the i-th of n falls anywhere in the i-th
    n-th of the whole. `unit_of_chunk` is ascending.
    """
    num_chunks = len(unit_of_chunk)
    shuffled = np.argsort(unit_of_chunk + rng.random(num_chunks))
    firsts = np.flatnonzero(np.diff(unit_of_chunk, prepend=-1))
    counts = np.diff(firsts, append=num_chunks)
    place = np.arange(num_chunks) - np.repeat(firsts, counts) + rng.random(num_chunks)
    return shuffled[np.argsort(place / np.repeat(counts, counts))]
