"""The harvest loop: tokens → language model → shards, written while the next ones are computed."""

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import torch

from sae_dist.common.disk import check_disk, explain_disk_errors
from sae_dist.common.errors import UserError
from sae_dist.common.log import log_info
from sae_dist.common.settings import validate
from sae_dist.harvest.assign import Round, round_of
from sae_dist.harvest.bar import TokenBar
from sae_dist.harvest.config import HarvestLoopConfig
from sae_dist.harvest.processes import Processes
from sae_dist.harvest.staging import StagingBuffer
from sae_dist.harvest.tokens import Tokeniser, Tokens
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
        tokeniser = threads.enter_context(Tokeniser(writer, tokens)) if leads_job else None
        units = Units(writer, processes.store)
        _fill(writer, capture, config, processes, units, tokeniser)
        if leads_job:
            writer.seal()
        while not writer.sealed:
            time.sleep(_POLL_SECONDS)


def _check_room(writer: StoreWriter) -> None:
    """Say what is to be done, and refuse it if it does not fit on the disk."""
    layout = writer.settings.layout(writer.settings.num_sequences or 0)
    num_bytes, num_units = writer.bytes_needed(), layout.num_units - len(writer.committed())
    log_info(f"{num_units} shards to harvest, {num_bytes / 1e9:.3g} GB")
    check_disk(writer.path, num_bytes)


def _fill(
    writer: StoreWriter,
    capture: Capture,
    config: HarvestLoopConfig,
    processes: Processes,
    units: Units,
    tokeniser: Tokeniser | None,
) -> None:
    """Harvest units until all are committed, by any process."""
    settings = writer.settings
    sizes = (settings.widths, (settings.shard_sequences, settings.sequence_length), settings.dtype)
    free = [StagingBuffer(*sizes, processes.device) for _ in range(_SHARDS_HELD)]
    writing: deque[tuple[Future[bool], StagingBuffer]] = deque()
    with ThreadPoolExecutor(1, "writer") as thread, TokenBar(writer, units) as bar:
        num_idle = 0
        while (taken := _take(units, processes, tokeniser)) is not None:
            num_idle = 0 if taken else num_idle + 1
            if writing and (not taken or not free or writing[0][0].done()):
                written, used = writing.popleft()
                if not written.result():
                    units.lost()
                free.append(used)
            elif not taken:  # the first tokens come soon, others' units late
                time.sleep(_POLL_SECONDS * 2.0 ** min(num_idle - 6, 0))
            if taken:
                this = round_of(taken, config.batch_sequences, processes.place)
                buffer = free.pop() if this.unit is not None and processes.leads else None
                _harvest_round(writer, capture, this, processes, buffer, bar)
                if this.unit is not None and buffer is not None:
                    arrays = buffer.arrays(taken[this.unit])
                    writing.append((thread.submit(writer.write_unit, this.unit, arrays), buffer))
            bar.show()
        for written, _ in writing:
            written.result()


def _take(units: Units, processes: Processes, tokeniser: Tokeniser | None) -> dict[int, int] | None:
    """Units, each with its sequences, for those that go together: one each at most.

    Empty: others work on all that are left, or tokens are awaited. None: none is left.
    """

    def take() -> dict[int, int] | None:
        _check_text(tokeniser, processes)
        if units.all_done:
            return None
        taken: dict[int, int] = {}
        while len(taken) < (processes.world if processes.in_step else 1):
            if (unit := units.take()) is not None:
                taken[unit] = units.length(unit)
            elif taken and units.awaits_text and not units.all_done:
                time.sleep(_POLL_SECONDS)  # a round of fewer units takes as long
                _check_text(tokeniser, processes)
            else:
                break
        return taken

    return processes.decide(take)


def _check_text(tokeniser: Tokeniser | None, processes: Processes) -> None:
    """Raise what ended the reading of the text, in the process that reads it and in its job's."""
    if tokeniser is None:
        if processes.store.check([_FAILED]):
            why = processes.store.get(_FAILED).decode()
            raise UserError(f"the process that reads the text failed: {why}")
        return
    try:
        tokeniser.check()
    except Exception as error:
        processes.store.set(_FAILED, f"{type(error).__name__}: {error}")
        raise


def _harvest_round(
    writer: StoreWriter,
    capture: Capture,
    this: Round,
    processes: Processes,
    buffer: StagingBuffer | None,
    bar: TokenBar,
) -> None:
    """Put a unit's activations into `buffer`, if any; without a unit, run empty passes if need be.

    `bar` hears of every pass.
    """
    positions = writer.settings.sequence_length
    idle_NS = torch.zeros(1, positions, dtype=torch.int64, device=processes.device)
    ids_NS = None if this.unit is None else _read_tokens(writer, this.unit)
    for batch in this.batches:
        if batch and ids_NS is not None:
            batch_ids_NS = torch.from_numpy(ids_NS[batch.start : batch.stop]).to(processes.device)
            acts = capture(batch_ids_NS)
            if buffer is not None:
                buffer.put(batch, acts)
            if this.unit is not None:
                bar.add(this.unit, len(batch))
        elif processes.in_step:
            capture(idle_NS)


def _read_tokens(writer: StoreWriter, unit: int) -> np.ndarray | None:
    """A unit's ids [n, S]; None if another job sealed the store meanwhile."""
    try:
        return writer.read_tokens(unit)[0]
    except UserError:
        if writer.sealed:
            return None
        raise
