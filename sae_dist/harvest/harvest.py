"""The harvest loop: tokens → language model → shards, written while the next ones are computed."""

import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

import numpy as np
import torch

from sae_dist.common.disk import check_disk, tell_unwritten
from sae_dist.common.log import say
from sae_dist.common.settings import validate
from sae_dist.harvest.assign import Round, round_of
from sae_dist.harvest.bar import TokenBar
from sae_dist.harvest.config import HarvestLoopConfig
from sae_dist.harvest.host import HostShard
from sae_dist.harvest.locks import LOCKS, Locks
from sae_dist.harvest.processes import Processes, next_units, together
from sae_dist.lm import Capture
from sae_dist.store import StoreWriter

TokenBlocks = Generator[tuple[np.ndarray, np.ndarray], None, None]
_POLL_SECONDS = 0.5
_SHARDS_HELD = 2  # in memory: one is filled while the other is written


def harvest(
    writer: StoreWriter,
    capture: Capture,
    tokens: Callable[[], tuple[TokenBlocks, Callable[[], dict[str, Any]]]],
    config: HarvestLoopConfig,
    processes: Processes,
) -> None:
    """Fill a store and seal it; called by all processes of any number of jobs, at any time.

    Every process takes the next unit that is neither committed nor locked. One of them writes the
    tokens, one seals, and others take over what a dead one left. Returns once the store is sealed.

    Args:
        writer: of a store; what is committed already is left alone.
        capture: gives the activations [N, S, d] of each of the store's sites.
        tokens: starts the tokenised corpus: blocks of (ids, trainable), and the fingerprint to be
            asked for after the last block. Called by one process, if there are no tokens yet.
        config, processes: how and by whom.
    """
    validate(config, "harvest.")

    def write_tokens() -> None:
        blocks, fingerprint = tokens()
        with closing(blocks):
            writer.write_tokens(blocks, fingerprint)

    with (
        tell_unwritten(writer.path, writer.bytes_needed),
        Locks(writer.path / LOCKS, config.lock_seconds) as locks,
    ):
        together(lambda: _once("tokens", writer.tokens_ready, write_tokens, locks), processes)
        _fill(writer, capture, config, processes, locks)
        together(lambda: _once("seal", lambda: writer.sealed, writer.seal, locks), processes)
    locks.remove_all()


def _fill(
    writer: StoreWriter,
    capture: Capture,
    config: HarvestLoopConfig,
    processes: Processes,
    locks: Locks,
) -> None:
    """Harvest units until all are committed, by whomever."""
    layout = writer.layout
    lengths = [len(layout.sequences_of(unit)) for unit in range(layout.num_shards)]
    num_bytes, num_missing = writer.bytes_needed(), len(writer.missing())
    say(f"{num_missing} shards to harvest, {num_bytes / 1e9:.3g} GB")
    together(lambda: check_disk(writer.path, num_bytes), processes)
    sizes = (writer.settings.widths, (max(lengths), layout.sequence_length), writer.dtype)
    free = [HostShard(*sizes, processes.device) for _ in range(_SHARDS_HELD)]
    writing: deque[tuple[Future[bool], HostShard]] = deque()
    with ThreadPoolExecutor(1, "writer") as thread, TokenBar(writer, lengths) as bar:
        while (units := next_units(writer, locks, processes)) is not None:
            if writing and (not units or not free):
                written, used = writing.popleft()
                written.result()
                free.append(used)
            elif not units:
                time.sleep(_POLL_SECONDS)
            if units:
                this = round_of(units, lengths, config.batch_sequences, processes.place)
                room = free.pop() if this.unit is not None and processes.leads else None
                _harvest_round(writer, capture, this, processes, room, bar)
                if this.unit is not None and room is not None:
                    arrays = room.arrays(lengths[this.unit])
                    writing.append((thread.submit(writer.write_shard, this.unit, arrays), room))
            bar.look()
        for written, _ in writing:
            written.result()


def _harvest_round(
    writer: StoreWriter,
    capture: Capture,
    this: Round,
    processes: Processes,
    room: HostShard | None,
    bar: TokenBar,
) -> None:
    """Put the unit's activations into `room`, if any; without a unit, run empty passes if need be.

    `bar` hears of every pass.
    """
    positions = writer.layout.sequence_length
    idle_NS = torch.zeros(1, positions, dtype=torch.int64, device=processes.device)
    ids_NS = np.empty((0, positions)) if this.unit is None else writer.read_tokens(this.unit)[0]
    for batch in this.batches:
        if batch:
            batch_ids_NS = torch.from_numpy(ids_NS[batch.start : batch.stop]).to(processes.device)
            acts = capture(batch_ids_NS)
            if room is not None:
                room.put(batch, acts)
            if this.unit is not None:
                bar.add(this.unit, len(batch))
        elif processes.in_step:
            capture(idle_NS)


def _once(name: str, is_done: Callable[[], bool], act: Callable[[], object], locks: Locks) -> None:
    """Let one process of all jobs act, and the others look at the disk until it is done.

    If that one dies another takes over.
    """
    is_told = False
    while not is_done():
        if locks.take(name):
            if not is_done():
                act()
            locks.keep(set())
        else:
            if not is_told and (owner := locks.owner(name)):
                say(f"waiting for the {name} of {owner}")
                is_told = True
            time.sleep(_POLL_SECONDS)
