"""Which rows make up which global batch: a pure function of the rows of each chunk and a seed.

Each epoch deals the chunks to lanes: in rounds, from the fullest chunks to the emptiest, so that
lanes end together, each round in an order of its own. A lane permutes its chunks, cuts them into
buckets, permutes the rows of each bucket, and gives an equal share of every global batch. Nothing
here depends on the number of ranks, and any step is found without going through those before it.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sae_dist.common.errors import UserError
from sae_dist.common.seeds import generator

_MAX_LANES = 64


@dataclass(frozen=True, slots=True, eq=False)
class LanePlan:
    """One lane in one epoch: the chunks of each bucket, and where each bucket's rows begin.

    `starts` int64 [buckets + 1] counts rows of the lane; its last entry is their total.
    """

    buckets: list[np.ndarray]
    starts: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """One bucket's turn: its chunks, the order of its rows, and which part [first, stop) is given.

    `rows` is a permutation of the bucket's rows, int64, counted through `chunks` in their order.
    """

    chunks: np.ndarray
    rows: np.ndarray
    first: int
    stop: int


def fitting_lanes(rows_per_chunk: np.ndarray, batch_tokens: int) -> int:
    """The most lanes, up to 64, that share a batch and use nine tenths of all rows in an epoch."""
    fullest_first = np.sort(rows_per_chunk)[::-1]
    num_rows = int(fullest_first.sum())
    return next(
        (
            lanes
            for lanes in range(min(_MAX_LANES, len(fullest_first)), 1, -1)
            if batch_tokens % lanes == 0
            and (fewest := _fewest_rows(fullest_first, lanes)) * lanes >= 0.9 * num_rows
            and fewest * lanes >= batch_tokens
        ),
        1,
    )


def _fewest_rows(fullest_first: np.ndarray, lanes: int) -> int:
    """Rows that a lane is sure to get in an epoch."""
    return int(fullest_first[lanes - 1 :: lanes].sum())


class TokenOrder:
    """The order of rows for ever, epoch after epoch.

    `rows_per_chunk` counts the rows (trainable tokens) of each chunk in play. A step is one global
    batch of `batch_tokens` rows, lane after lane, and an epoch lasts as long as its shortest lane:
    what longer lanes have left is dropped until the next epoch deals anew.
    """

    def __init__(
        self,
        rows_per_chunk: np.ndarray,
        lanes: int,
        bucket_chunks: int,
        batch_tokens: int,
        seed: int,
    ) -> None:
        """Raises UserError when lanes do not fit the chunks or the batch, or rows are too few."""
        _check(rows_per_chunk, lanes, batch_tokens)
        self.lanes = lanes
        self.lane_tokens = batch_tokens // lanes
        self._rows = np.append(np.asarray(rows_per_chunk, np.int64), 0)  # the last for no chunk
        self._rounds = np.full((-(-len(rows_per_chunk) // lanes), lanes), -1, np.int64)
        fullest_first = np.argsort(-self._rows[:-1], kind="stable")
        self._rounds.reshape(-1)[: len(fullest_first)] = fullest_first
        self._bucket_chunks = bucket_chunks
        self._seed = seed
        self._ends = [0]  # the first step of each epoch that was asked for, and of the one after

    def locate(self, step: int) -> tuple[int, int]:
        """(epoch, step in that epoch) of a step counted from the very first."""
        while step >= self._ends[-1]:
            self._measure_epoch()
        epoch = bisect_right(self._ends, step) - 1
        return epoch, step - self._ends[epoch]

    def lane_plan(self, epoch: int, lane: int) -> LanePlan:
        """The chunks of a lane in an epoch, bucket by bucket."""
        chunks = self._dealt(epoch)[:, lane]
        chunks = chunks[chunks >= 0]
        size = self._bucket_chunks
        buckets = [chunks[start : start + size] for start in range(0, len(chunks), size)]
        rows = [int(self._rows[bucket].sum()) for bucket in buckets]
        return LanePlan(buckets, np.concatenate([[0], np.cumsum(rows)]).astype(np.int64))

    def steps_in_epoch(self, epoch: int) -> int:
        """Global batches of an epoch."""
        while len(self._ends) < epoch + 2:
            self._measure_epoch()
        return self._ends[epoch + 1] - self._ends[epoch]

    def _measure_epoch(self) -> None:
        """Note where the next epoch ends: with its shortest lane."""
        shortest = int(self._rows[self._dealt(len(self._ends) - 1)].sum(0).min())
        self._ends.append(self._ends[-1] + shortest // self.lane_tokens)

    def segments(self, lane: int, step: int) -> Iterator[Segment]:
        """What a lane gives out from `step` on, for ever; dropped tails are left out."""
        epoch, done = self.locate(step)
        first = done * self.lane_tokens
        while True:
            end = self.steps_in_epoch(epoch) * self.lane_tokens
            plan = self.lane_plan(epoch, lane)
            for bucket, chunks in enumerate(plan.buckets):
                start, stop = (int(row) for row in plan.starts[bucket : bucket + 2])
                if max(first, start) < min(end, stop):
                    order = generator(self._seed, "bucket", epoch, lane, bucket)
                    rows = order.permutation(stop - start)
                    yield Segment(chunks, rows, max(first - start, 0), min(end, stop) - start)
            epoch, first = epoch + 1, 0

    def _dealt(self, epoch: int) -> np.ndarray:
        """Chunks [round, lane] in the order in which lanes take them; -1 where there is none."""
        dice = generator(self._seed, "epoch", epoch)
        return dice.permuted(dice.permuted(self._rounds, axis=1), axis=0)


def _check(rows_per_chunk: np.ndarray, lanes: int, batch_tokens: int) -> None:
    """Refuse what could ever leave an epoch without a step, before the first one."""
    num_chunks, num_rows = len(rows_per_chunk), int(np.sum(rows_per_chunk))
    if lanes < 1 or batch_tokens < 1 or batch_tokens % lanes:
        raise UserError(
            f"found batch_tokens={batch_tokens} and lanes={lanes}; expected a multiple of the "
            "lanes; change batch_tokens or stream.lanes"
        )
    if num_rows < batch_tokens:
        raise UserError(
            f"found {num_rows} training tokens; expected at least one global batch of "
            f"{batch_tokens}; lower batch_tokens or harvest more"
        )
    if lanes > num_chunks:
        raise UserError(
            f"found {num_chunks} training chunks for {lanes} lanes; expected at least one each; "
            f"set stream.lanes to at most {num_chunks}, or store smaller chunks (chunk_mib)"
        )
    fewest = _fewest_rows(np.sort(rows_per_chunk)[::-1], lanes)
    if fewest < batch_tokens // lanes:
        raise UserError(
            f"found lanes that may get {fewest} tokens in an epoch; expected at least their share "
            f"of a batch, {batch_tokens // lanes}; lower batch_tokens or stream.lanes"
        )
