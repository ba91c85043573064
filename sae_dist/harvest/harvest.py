"""The harvest loop: tokens → language model → shards, written while the next ones are computed."""

import json
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from sae_dist.common.errors import UserError
from sae_dist.common.log import progress, say
from sae_dist.harvest.assign import Round, rounds
from sae_dist.harvest.host import HostShard
from sae_dist.lm import Capture
from sae_dist.store import StoreWriter, check_disk

TokenBlocks = Generator[tuple[np.ndarray, np.ndarray], None, None]
_POLL_SECONDS = 0.5
_SHARDS_HELD = 2  # in memory: one is filled while the other is written


@dataclass(kw_only=True, slots=True)
class HarvestLoopConfig:
    """How the language model is run. `batch_sequences` make one forward pass.

    They belong to what a shard is: another number may round differently.
    """

    batch_sequences: int = 16


@dataclass(frozen=True, slots=True)
class Processes:
    """One of the processes that harvest; `in_step`: all must run equally many forward passes.

    Where several run one language model (`join_team`) they count as one: `leads` is true for
    the one among them that writes, and `store` is where all agree.
    """

    rank: int
    world: int
    device: torch.device
    in_step: bool = False
    leads: bool = True
    store: dist.Store | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is the one process that writes tokens and seals."""
        return self.rank == 0 and self.leads

    def agree(self, value: list[int]) -> list[int]:
        """The first process' value, on all."""
        if self.store is not None:
            if self.is_first:
                self.store.set("value", json.dumps(value))
            return json.loads(self.store.get("value"))
        box = [value]
        if self.world > 1:
            dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]


def harvest(
    writer: StoreWriter,
    capture: Capture,
    tokens: Callable[[], tuple[TokenBlocks, Callable[[], dict[str, Any]]]],
    config: HarvestLoopConfig,
    processes: Processes,
) -> None:
    """Fill a store and seal it; called by all processes, in any number, as often as it takes.

    Args:
        writer: of a store that is not sealed; what is committed already is left alone.
        capture: gives the activations [N, S, d] of each of the store's sites.
        tokens: starts the tokenised corpus: blocks of (ids, trainable), and the fingerprint to be
            asked for after the last block. Called by the first process, if there are no tokens yet.
        config, processes: how and by whom.
    """
    if config.batch_sequences < 1:
        raise UserError(f"harvest.batch_sequences={config.batch_sequences}; expected at least 1")
    if processes.is_first and not writer.tokens_ready():
        blocks, fingerprint = tokens()
        with closing(blocks):
            writer.write_tokens(blocks, fingerprint)
    _wait_for(writer.tokens_ready)

    # Agreed on: a list made a moment later might lack what another process has committed by then.
    missing = processes.agree(writer.missing())
    num_bytes = writer.bytes_needed()
    say(f"{len(missing)} shards to harvest, {num_bytes / 1e9:.3g} GB")
    check_disk(writer.path, num_bytes)

    layout = writer.layout
    lengths = [len(layout.sequences_of(unit)) for unit in range(layout.num_shards)]
    plan = rounds(missing, lengths, config.batch_sequences, processes.rank, processes.world)
    sizes = (writer.settings.widths, (max(lengths), layout.sequence_length), writer.dtype)
    rooms = [HostShard(*sizes, processes.device) for _ in range(_SHARDS_HELD)]
    with (
        ThreadPoolExecutor(1, "writer") as thread,
        progress(total=len(missing), desc="harvest", unit="shard") as bar,
    ):
        writing: deque[Future[bool]] = deque()
        for this, room in zip(plan, cycle(rooms), strict=False):
            if len(writing) == _SHARDS_HELD:
                writing.popleft().result()
            _harvest_round(writer, capture, this, processes, room)
            if this.unit is not None and processes.leads:
                arrays = room.arrays(lengths[this.unit])
                writing.append(thread.submit(writer.write_shard, this.unit, arrays))
            bar.update(len(missing) - len(writer.missing()) - bar.n)
        for written in writing:
            written.result()
        if processes.is_first:
            _wait_for(lambda: not writer.missing())
            bar.update(len(missing) - bar.n)
            writer.seal()


def _harvest_round(
    writer: StoreWriter, capture: Capture, this: Round, processes: Processes, room: HostShard
) -> None:
    """Put the unit's activations into `room`; without a unit, run empty passes if need be."""
    positions = writer.layout.sequence_length
    idle_NS = torch.zeros(1, positions, dtype=torch.int64, device=processes.device)
    ids_NS = np.empty((0, positions)) if this.unit is None else writer.read_tokens(this.unit)[0]
    for batch in this.batches:
        if batch:
            batch_ids_NS = torch.from_numpy(ids_NS[batch.start : batch.stop]).to(processes.device)
            acts = capture(batch_ids_NS)
            if processes.leads:
                room.put(batch, acts)
        elif processes.in_step:
            capture(idle_NS)


def _wait_for(condition: Callable[[], bool]) -> None:
    """Look at the disk until `condition` holds: a collective would time out on a long wait."""
    while not condition():
        time.sleep(_POLL_SECONDS)
