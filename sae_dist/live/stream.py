"""Batches from a round in memory, while the language model fills the next one."""

import math
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle, takewhile

import numpy as np
import torch

from sae_dist.common.dtypes import from_storage
from sae_dist.common.errors import UserError
from sae_dist.common.log import log_info, progress
from sae_dist.harvest import StagingBuffer
from sae_dist.live.passes import Passes
from sae_dist.live.rounds import Round, RoundSizes, choose_lanes, rounds
from sae_dist.live.units import TextUnits, Unit
from sae_dist.stream import Batch, Batches, BatchPart, Prefetch, Step, StreamConfig, StreamState

_ROUNDS_HELD = 2  # one is given out while the other is filled
_FIRST_PART = 16  # of a bucket's tokens in the first round, so that the first step soon comes


@dataclass(frozen=True, slots=True, eq=False)
class PendingRound:
    """A round on its way into a buffer: this rank's units, by number, in their places there."""

    round: Round
    buffer: StagingBuffer
    places: dict[int, int]
    passes: list[Future[None]]


class LiveStream(Batches):
    """A text that a language model reads on the way, as `Batches`.

    A rank serves an equal share of each round's lanes, and runs the language model over their units
    alone: the batches of all ranks, one after the other, are the same global batch in every world,
    a pure function of (language model, text, settings, seed, step). A thread runs the model over
    the next round, evenly paced by the steps of this one. The rounds end with that of the part's
    last step, or never.

    Memory of one rank: two rounds of its lanes, `memory_bound` bytes, and the tokens of a few.
    """

    def __init__(
        self, units: TextUnits, passes: Passes, widths: dict[str, int], part: BatchPart
    ) -> None:
        """Raises UserError for lanes that do not fit the world or the batch."""
        batch_tokens = part.batch_tokens
        num_lanes = choose_lanes(part.config, units.num_training, units.unit_tokens, batch_tokens)
        self._lanes = part.lanes_of(num_lanes)
        if batch_tokens % num_lanes:
            raise UserError(
                f"found batch_tokens={batch_tokens} and lanes={num_lanes}; expected a "
                "multiple of the lanes; change batch_tokens or stream.lanes"
            )
        super().__init__(part)
        self._units, self._passes, self._widths = units, passes, widths
        self._lane_tokens = batch_tokens // num_lanes
        self._sizes = _sizes(part.config, num_lanes, units.unit_tokens, batch_tokens)

    @property
    def memory_bound(self) -> int:
        """Bytes of activations that this rank holds beside a batch."""
        row_bytes = sum(self._widths.values()) * self._passes.dtype.storage.itemsize
        lanes, held = self._sizes.lanes, len(self._lanes)
        return round_bytes(self._part.config, self._units.unit_tokens, row_bytes, lanes, held)

    def _start(self, threads: ExitStack) -> Prefetch[Step]:
        model = ThreadPoolExecutor(1, "sae-live", initializer=self._enter_thread)
        threads.enter_context(model)
        text = Prefetch(self._rounds(), depth=1)
        batches = Prefetch(self._all_batches(text, model), self._part.config.batches_ahead)
        threads.callback(batches.close)
        threads.callback(text.close)
        threads.callback(model.shutdown, wait=False, cancel_futures=True)
        return batches

    def _rounds(self) -> Iterator[Round]:
        stop = self._part.stop_step
        last = math.inf if stop is None else stop
        found = rounds(self._units.training, self._sizes, self._lane_tokens, self._step)
        return takewhile(lambda one: one.first_step < last, found)

    def _buffer(self) -> StagingBuffer:
        num_units = len(self._lanes) * self._sizes.most // self._sizes.lanes
        num_sequences = num_units * self._units.unit_sequences
        shape = (num_sequences, self._units.sequence_length)
        return StagingBuffer(self._widths, shape, self._passes.dtype, self._passes.device)

    def _enter_thread(self) -> None:
        if self._passes.device.type == "cuda":
            torch.cuda.set_device(self._passes.device)

    def _all_batches(self, text: Iterator[Round], model: ThreadPoolExecutor) -> Iterator[Step]:
        """Round by round, each while the next is filled in the buffer of the one before."""
        buffers = cycle([self._buffer() for _ in range(_ROUNDS_HELD)])
        step, first = self._step, next(text, None)
        if first is None:
            return
        now = self._fill(first, next(buffers), model)
        self._tell(now)
        self._await_first(now)
        while (following := next(text, None)) is not None:
            coming = self._fill(following, next(buffers), model)
            yield from self._batches(now, coming.passes, step - now.round.first_step)
            _wait(coming.passes)
            now, step = coming, coming.round.first_step
        yield from self._batches(now, [], step - now.round.first_step)

    def _fill(self, this: Round, buffer: StagingBuffer, model: ThreadPoolExecutor) -> PendingRound:
        """Send this rank's units of a round through the model; lane by lane into a buffer."""
        units = {u.number: u for lane in self._lanes for u in this.lanes[lane].units}
        places = {number: place for place, number in enumerate(units)}
        passes = [model.submit(self._pass, units[n], place, buffer) for n, place in places.items()]
        return PendingRound(this, buffer, places, passes)

    def _await_first(self, first: PendingRound) -> None:
        """Wait for the round before any step, and show what the language model has read of it."""
        size = self._units.unit_tokens
        with progress(
            total=len(first.passes) * size,
            desc="fill the first round",
            unit="token",
            unit_scale=True,
            leave=False,
        ) as bar:
            for one in first.passes:
                one.result()
                bar.update(size)

    def _pass(self, unit: Unit, place: int, buffer: StagingBuffer) -> None:
        size = self._units.unit_sequences
        buffer.put(range(place * size, (place + 1) * size), self._passes(unit))

    def _batches(self, now: PendingRound, coming: list[Future[None]], start: int) -> Iterator[Step]:
        """The batches of a round in memory, not faster than the next one is filled.

        So that the wait for a slow language model comes in small parts, and no step looks as if it
        had stalled.
        """
        this, dtype = now.round, self._passes.dtype
        arrays = now.buffer.arrays(len(now.passes) * self._units.unit_sequences)
        stored = {site: array.reshape(-1, array.shape[-1]) for site, array in arrays.items()}
        rows, index = self._order(now)
        for step in range(start, this.num_steps):
            _wait(coming[: (step + 1) * len(coming) // this.num_steps])
            acts = {s: from_storage(x.take(rows[step], axis=0), dtype) for s, x in stored.items()}
            is_over = this.ends_epoch and step + 1 == this.num_steps
            state = StreamState(step=this.first_step + step + 1, epoch=this.epoch + is_over)
            yield Batch(acts=acts, index=torch.from_numpy(index[step])), state

    def _order(self, now: PendingRound) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the buffer, and sequence · S + position, int64 [num_steps, b] of this rank."""
        rows, index, size = [], [], self._units.unit_tokens
        for lane in self._lanes:
            row_TB = now.round.rows(lane, self._lane_tokens, self._part.seed)
            number_U = np.array([unit.number for unit in now.round.lanes[lane].units])
            place_U = np.array([now.places[number] for number in number_U])
            unit_TB, offset_TB = np.divmod(row_TB, size)
            rows.append(place_U[unit_TB] * size + offset_TB)
            index.append(number_U[unit_TB] * size + offset_TB)
        return np.concatenate(rows, axis=1), np.concatenate(index, axis=1)

    def _tell(self, first: PendingRound) -> None:
        """What a round is, and what it takes to go on from a checkpoint."""
        numbers = {unit.number for lane in first.round.lanes for unit in lane.units}
        size = self._units.unit_tokens
        log_info(
            f"  rounds of {len(numbers) * size} tokens, then more, up to "
            f"{self._sizes.most * size}: at most {self.memory_bound / 2**30:.3g} GiB "
            "in memory on each process"
        )
        if self._step:
            log_info(
                f"  going on in round {first.round.number} of epoch {first.round.epoch}: "
                f"{min(numbers)} units of {size} tokens were only tokenised again, "
                f"{len(numbers)} pass the language model again"
            )


def round_bytes(
    config: StreamConfig, unit_tokens: int, row_bytes: int, lanes: int, held: int
) -> int:
    """Bytes of the rounds that a rank with `held` of the lanes holds; a token has `row_bytes`."""
    return _ROUNDS_HELD * held * _lane_units(config, lanes, unit_tokens) * unit_tokens * row_bytes


def _sizes(config: StreamConfig, lanes: int, unit_tokens: int, batch_tokens: int) -> RoundSizes:
    """Rounds that end at a bucket; the first is a small part of it, and two batches at least."""
    first = max(config.bucket_tokens // _FIRST_PART, 2 * batch_tokens)
    most = lanes * _lane_units(config, lanes, unit_tokens)
    return RoundSizes(lanes, min(-(-first // unit_tokens), most), most)


def _lane_units(config: StreamConfig, lanes: int, unit_tokens: int) -> int:
    return max(1, config.bucket_tokens // (lanes * unit_tokens))


def _wait(passes: list[Future[None]]) -> None:
    for one in passes:
        one.result()
