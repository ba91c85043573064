"""The harvest loop: tokens → language model → shards, written while the next ones are computed."""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing

import numpy as np
import torch

from sae_dist.common.disk import check_disk, explain_disk_errors
from sae_dist.common.errors import UserError
from sae_dist.common.log import log_info
from sae_dist.common.settings import validate
from sae_dist.harvest.bar import TokenBar
from sae_dist.harvest.config import HarvestLoopConfig
from sae_dist.harvest.processes import Processes
from sae_dist.harvest.staging import StagingBuffer
from sae_dist.harvest.tokens import Tokens, tokenised
from sae_dist.harvest.units import Units
from sae_dist.lm import Capture
from sae_dist.store import StoreWriter

_POLL_SECONDS = 0.5
_FAILED = "why the text could not be read"  # in the launcher's store
_SHARDS_HELD = 2  # in memory: one is filled while the other is written


def fill_store(
    writer: StoreWriter,
    capture: Capture,
    tokens: Tokens,
    config: HarvestLoopConfig,
    processes: Processes,
) -> None:
    """Fill a store and seal it; called by all processes of any number of jobs, at any time.

    A job's first process writes the tokens in a thread, unit by unit, and seals at the end; every
    process takes units whose tokens are there, and others take over what a dead one left. Returns
    once the store is sealed.

    Args:
        writer: of a store; what is committed already is left alone.
        capture: gives the activations [N, S, d] of each of the store's sites.
        tokens: starts the tokenised corpus at a unit.
        config, processes: how and by whom.
    """
    validate(config, "harvest.")
    leads_job = processes.leads and processes.rank == 0
    with explain_disk_errors(writer.path, writer.bytes_needed), ExitStack() as threads:
        processes.decide(lambda: _check_room(writer))
        check_text = threads.enter_context(tokenised(writer, tokens)) if leads_job else None
        Harvester(writer, capture, config.batch_sequences, processes, check_text).run()
        if leads_job:
            writer.seal()
        while not writer.sealed:
            time.sleep(_POLL_SECONDS)


def batches_of(num_sequences: int, batch_sequences: int) -> list[range]:
    """The forward passes of a unit: ranges of its sequences, the same whoever harvests it."""
    starts = range(0, num_sequences, batch_sequences)
    return [range(num_sequences)[start : start + batch_sequences] for start in starts]


def _check_room(writer: StoreWriter) -> None:
    """Say what is to be done, and refuse it if it does not fit on the disk."""
    layout = writer.settings.layout(writer.settings.num_sequences or 0)
    num_bytes, num_units = writer.bytes_needed(), layout.num_units - len(writer.committed())
    log_info(f"{num_units} shards to harvest, {num_bytes / 1e9:.3g} GB")
    check_disk(writer.path, num_bytes)


class Harvester:
    """What one process harvests of a store whose tokens come.

    Args:
        writer, capture, processes: as in `fill_store`.
        batch_sequences: of a forward pass.
        check_text: raises what ended the reading of the text, in the process that reads it.
    """

    def __init__(
        self,
        writer: StoreWriter,
        capture: Capture,
        batch_sequences: int,
        processes: Processes,
        check_text: Callable[[], None] | None,
    ) -> None:
        self._writer, self._capture, self._processes = writer, capture, processes
        self._batch_sequences, self._check_text = batch_sequences, check_text
        self._units = Units(writer, processes.store)

    def run(self) -> None:
        """Harvest units until all are committed, by any process."""
        writer, settings = self._writer, self._writer.settings
        shape = settings.shard_sequences, settings.sequence_length
        sizes = settings.widths, shape, settings.dtype, self._processes.device
        free = [StagingBuffer(*sizes) for _ in range(_SHARDS_HELD)]
        writing: deque[tuple[Future[bool], StagingBuffer]] = deque()
        with (
            ThreadPoolExecutor(1, "writer") as thread,
            closing(TokenBar(writer, self._units)) as bar,
        ):
            num_idle = 0
            while (taken := self._processes.decide(self._take)) is not None:
                num_idle = 0 if taken else num_idle + 1
                if writing and (not taken or not free or writing[0][0].done()):
                    written, used = writing.popleft()
                    if not written.result():
                        self._units.lost()
                    free.append(used)
                elif not taken:  # the first tokens come soon, others' units late
                    time.sleep(_POLL_SECONDS * 2.0 ** min(num_idle - 6, 0))
                place = self._processes.place  # beyond the units this process keeps nothing
                unit = list(taken)[place] if place < len(taken) else None
                buffer = free.pop() if unit is not None and self._processes.leads else None
                self._pass(unit, taken, buffer, bar)
                if unit is not None and buffer is not None:
                    arrays = buffer.arrays(taken[unit])
                    writing.append((thread.submit(writer.write_unit, unit, arrays), buffer))
                bar.show()
            for written, _ in writing:
                written.result()

    def _take(self) -> dict[int, int] | None:
        """Units, each with its sequences, for those that go together: one each at most.

        Empty: others work on all that are left, or tokens are awaited. None: none is left.
        """
        units, processes = self._units, self._processes
        self._raise_if_text_failed()
        if units.all_done:
            return None
        taken: dict[int, int] = {}
        while len(taken) < (processes.world if processes.in_step else 1):
            if (unit := units.take()) is not None:
                taken[unit] = units.length(unit)
            elif taken and units.awaits_text and not units.all_done:
                time.sleep(_POLL_SECONDS)  # a round of fewer units takes as long
                self._raise_if_text_failed()
            else:
                break
        return taken

    def _raise_if_text_failed(self) -> None:
        """In the process that reads the text, and in the others of its job."""
        store = self._processes.store
        if self._check_text is None:
            if store.check([_FAILED]):
                why = store.get(_FAILED).decode()
                raise UserError(f"the process that reads the text failed: {why}")
            return
        try:
            self._check_text()
        except Exception as error:
            store.set(_FAILED, f"{type(error).__name__}: {error}")
            raise

    def _pass(
        self, unit: int | None, taken: dict[int, int], buffer: StagingBuffer | None, bar: TokenBar
    ) -> None:
        """Put a unit's activations into `buffer`, if any, and tell `bar` of every pass.

        Engines that gather weights together (ZeRO-3) run in step: as many passes as the longest
        unit that is `taken` has, empty ones where this process has fewer sequences.
        """
        device, positions = self._processes.device, self._writer.settings.sequence_length
        ids_NS = torch.from_numpy(self._read_tokens(unit))
        for batch in batches_of(max(taken.values(), default=0), self._batch_sequences):
            own_NS = ids_NS[batch.start : batch.stop]
            if unit is not None and len(own_NS):
                acts = self._capture(own_NS.to(device))
                if buffer is not None:
                    buffer.put(batch[: len(own_NS)], acts)
                bar.add(unit, len(own_NS))
            elif self._processes.in_step:
                self._capture(torch.zeros(1, positions, dtype=torch.int64, device=device))

    def _read_tokens(self, unit: int | None) -> np.ndarray:
        """A unit's ids [n, S]; none without one, or if another job sealed the store meanwhile."""
        try:
            if unit is not None:
                return self._writer.read_tokens(unit)[0]
        except UserError:
            if not self._writer.sealed:
                raise
        return np.empty((0, self._writer.settings.sequence_length), np.int32)
