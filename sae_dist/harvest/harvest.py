"""The harvest loop: tokens → language model → shards; writing overlaps with the next forward passes."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sae_dist.common.dtypes import FloatDtype, to_storage
from sae_dist.common.errors import UserError
from sae_dist.common.log import progress
from sae_dist.harvest.assign import Round, rounds
from sae_dist.lm import Capture
from sae_dist.store import StoreWriter

_POLL_SECONDS = 0.5


@dataclass(kw_only=True, slots=True)
class HarvestLoopConfig:
    """How the language model is run. `batch_sequences` make one forward pass.

    They belong to what a shard is: another number may round differently.
    """

    batch_sequences: int = 16


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those that harvest. `in_step`: all must run equally many forward passes."""

    rank: int
    world: int
    device: torch.device
    in_step: bool = False


def harvest(
    writer: StoreWriter,
    capture: Capture,
    tokens: Callable[[], tuple[Iterator[tuple[np.ndarray, np.ndarray]], Callable[[], Any]]],
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
    if processes.rank == 0 and not writer.tokens_ready():
        blocks, fingerprint = tokens()
        writer.write_tokens(blocks, fingerprint)
    _wait_for(writer.tokens_ready)

    layout = writer.layout
    lengths = [len(layout.sequences_of(unit)) for unit in range(layout.num_shards)]
    missing = writer.missing()
    plan = rounds(missing, lengths, config.batch_sequences, processes.rank, processes.world)
    with ThreadPoolExecutor(1, "writer") as thread, _bar(writer, missing) as bar:
        writing: Future[None] | None = None
        for this in plan:
            shard = _harvest_round(writer, capture, this, processes)
            if writing is not None:
                writing.result()
            if this.unit is not None:
                writing = thread.submit(writer.write_shard, this.unit, shard)
            bar.update(len(missing) - len(writer.missing()) - bar.n)
        if writing is not None:
            writing.result()
        if processes.rank == 0:
            _wait_for(lambda: not writer.missing())
            bar.update(len(missing) - bar.n)
            writer.seal()


def _harvest_round(
    writer: StoreWriter, capture: Capture, this: Round, processes: Processes
) -> dict[str, np.ndarray]:
    """The unit's activations in their stored form [n, S, d] by site; {} without a unit."""
    positions = writer.layout.sequence_length
    idle_NS = torch.zeros(1, positions, dtype=torch.int64, device=processes.device)
    ids_NS = np.empty((0, positions)) if this.unit is None else writer.read_tokens(this.unit)[0]
    parts: dict[str, list[np.ndarray]] = {}
    for batch in this.batches:
        if not batch:
            if processes.in_step:
                capture(idle_NS)
            continue
        batch_ids_NS = torch.from_numpy(ids_NS[batch.start : batch.stop]).to(processes.device)
        for site, acts_NSD in capture(batch_ids_NS).items():
            parts.setdefault(site, []).append(to_storage(acts_NSD.cpu(), writer.dtype))
    return {site: np.concatenate(blocks) for site, blocks in parts.items()}


def _bar(writer: StoreWriter, missing: list[int]) -> Any:
    done = writer.layout.num_shards - len(missing)
    if done and missing:
        from sae_dist.common.log import say

        say(f"{done} of {writer.layout.num_shards} shards are there already")
    return progress(total=len(missing), desc="harvest", unit="shard")


def _wait_for(condition: Callable[[], bool]) -> None:
    """Look at the disk until `condition` holds: a collective would time out on a long wait."""
    while not condition():
        time.sleep(_POLL_SECONDS)


__all__ = ["FloatDtype", "HarvestLoopConfig", "Processes", "harvest"]
