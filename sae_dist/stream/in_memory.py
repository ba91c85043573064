"""Activations of one site that lie in memory, and are all there is of their kind."""

import time
from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae_dist.common.errors import UserError
from sae_dist.common.seeds import generator
from sae_dist.stream.batches import Batch, Batches, BatchPart, StreamState
from sae_dist.stream.held_out import HeldOutBatch, share_of


class ActivationsInMemory:
    """Rows of one site, an `ActivationSource`; a decoder's directions, say.

    Each row is a sequence of its own. They are no sample of something larger: all are trained on,
    and all are what evaluation reads.

    Args:
        site: what they are called.
        rows_ND: the same on every process.
        identity: equal only for equal rows.
        about: where they come from, JSON-able.
    """

    sequence_length = 1

    def __init__(self, site: str, rows_ND: Tensor, identity: str, about: dict[str, Any]) -> None:
        self._site, self._rows_ND = site, rows_ND
        self.identity, self.about = identity, about
        self.widths = {site: rows_ND.shape[1]}
        self.num_tokens = self.num_held_out = len(rows_ND)

    def mean_square(self, site: str) -> float:
        """E‖x‖² over all rows."""
        self._check([site])
        return float(self._rows_ND.double().square().sum(1).mean())

    def sample(self, sites: list[str], num_tokens: int, seed: int) -> dict[str, Tensor]:
        """Rows drawn without replacement."""
        self._check(sites)
        drawn = generator(seed, "sample").permutation(len(self._rows_ND))[:num_tokens]
        return {site: self._rows_ND[torch.from_numpy(drawn)] for site in sites}

    def batches(self, sites: list[str], part: BatchPart) -> "RowStream":
        """See `RowStream`."""
        self._check(sites)
        return RowStream(self._site, self._rows_ND, part)

    def held_out(
        self,
        sites: list[str],
        part: int,
        parts: int,
        max_sequences: int | None,
        batch_sequences: int,
    ) -> Iterator[HeldOutBatch]:
        """One part of all rows, in order, [n, 1, D] a batch; token ids are 0."""
        self._check(sites)
        own = share_of(self.num_held_out, part, parts, max_sequences, batch_sequences)
        for first in own[::batch_sequences]:
            numbers_N = torch.arange(first, min(first + batch_sequences, own.stop))
            rows_N1D = self._rows_ND[first : first + batch_sequences][: len(numbers_N), None]
            yield HeldOutBatch(
                sequences=numbers_N,
                input_ids=torch.zeros(rows_N1D.shape[:2], dtype=torch.int64),
                trainable=torch.ones(rows_N1D.shape[:2], dtype=torch.bool),
                acts=dict.fromkeys(sites, rows_N1D),
            )

    def _check(self, sites: list[str]) -> None:
        for site in sites:
            if site != self._site:
                raise UserError(
                    f"found no site {site!r}; there is only {self._site!r}; set site={self._site}"
                )


class RowStream(Batches):
    """Iterates `(Batch, StreamState)` for ever over rows in memory.

    Every epoch permutes all rows, and a global batch is the next `batch_tokens` of them: a pure
    function of (rows, seed, step). Nothing is read from files, nor of `part.config`. What is left
    of an epoch after its last whole batch is dropped. Iterating again goes on with the next batch.

    `waited_seconds` is the time it took to gather rows.
    """

    def __init__(self, site: str, rows_ND: Tensor, part: BatchPart) -> None:
        """Raises UserError for too few rows, or a world that does not divide a batch."""
        if len(rows_ND) < part.batch_tokens or part.batch_tokens % part.world:
            raise UserError(
                f"found batch_tokens={part.batch_tokens} for {len(rows_ND)} rows and {part.world} "
                "ranks; expected at most as many as rows, and a multiple of the ranks; change "
                "batch_tokens"
            )
        self.waited_seconds = 0.0
        self._site, self._rows_ND, self._part = site, rows_ND, part
        self._step = part.start_step

    def __iter__(self) -> Iterator[tuple[Batch, StreamState]]:
        steps_per_epoch = len(self._rows_ND) // self._part.batch_tokens
        for epoch in count(self._step // steps_per_epoch):
            order_N = generator(self._part.seed, "epoch", epoch).permutation(len(self._rows_ND))
            for step in range(self._step % steps_per_epoch, steps_per_epoch):
                batch = self._batch(order_N, step)
                self._step += 1
                yield batch, StreamState(step=self._step, epoch=self._step // steps_per_epoch)

    def _batch(self, order_N: np.ndarray, step: int) -> Batch:
        begun, part = time.perf_counter(), self._part
        size = part.batch_tokens // part.world
        first = step * part.batch_tokens + part.rank * size
        index_B = torch.from_numpy(order_N[first : first + size])
        batch = Batch(acts={self._site: self._rows_ND[index_B]}, index=index_B)
        self.waited_seconds += time.perf_counter() - begun
        return batch

    def close(self) -> None:
        """Nothing is open."""
