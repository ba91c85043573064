"""Activations of one site that lie in memory, and are all there is of their kind."""

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from typing import Any

import torch
from torch import Tensor

from sae_dist.common.errors import UserError
from sae_dist.common.seeds import generator
from sae_dist.stream.batches import Batch, Batches, BatchPart, Step, StreamState
from sae_dist.stream.held_out import HeldOutBatch, HeldOutPart
from sae_dist.stream.prefetch import Prefetch


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

    def held_out(self, sites: list[str], part: HeldOutPart) -> Iterator[HeldOutBatch]:
        """One part of all rows, in order, [n, 1, D] a batch; token ids are 0."""
        self._check(sites)
        own, size = part.of(self.num_held_out), part.batch_sequences
        for first in own[::size]:
            numbers_N = torch.arange(first, min(first + size, own.stop))
            rows_N1D = self._rows_ND[numbers_N, None]
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
    """Rows in memory as `Batches`.

    Every epoch permutes all rows, and a global batch is the next `batch_tokens` of them: a pure
    function of (rows, seed, step). What is left of an epoch after its last whole batch is dropped.
    """

    def __init__(self, site: str, rows_ND: Tensor, part: BatchPart) -> None:
        """Raises UserError for too few rows, or a world that does not divide a batch."""
        if len(rows_ND) < part.batch_tokens or part.batch_tokens % part.world:
            raise UserError(
                f"found batch_tokens={part.batch_tokens} for {len(rows_ND)} rows and {part.world} "
                "ranks; expected at most as many as rows, and a multiple of the ranks; change "
                "batch_tokens"
            )
        super().__init__(part)
        self._site, self._rows_ND = site, rows_ND

    def _start(self, threads: ExitStack) -> Prefetch[Step]:
        ahead = Prefetch(self._batches(), self._part.config.batches_ahead)
        threads.callback(ahead.close)
        return ahead

    def _batches(self) -> Iterator[Step]:
        part, num_rows = self._part, len(self._rows_ND)
        steps_per_epoch, order_N = num_rows // part.batch_tokens, None
        for step in count(self._step):
            epoch, place = divmod(step, steps_per_epoch)
            if order_N is None or place == 0:
                order_N = generator(part.seed, "epoch", epoch).permutation(num_rows)
            index_B = torch.from_numpy(order_N[place * part.batch_tokens :][part.rows])
            batch = Batch(acts={self._site: self._rows_ND[index_B]}, index=index_B)
            yield batch, StreamState(step=step + 1, epoch=(step + 1) // steps_per_epoch)
