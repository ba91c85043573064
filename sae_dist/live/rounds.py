"""Which units are in memory together, how many lanes share them, and how many steps they last."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count, islice, repeat

import numpy as np

from sae_dist.common.errors import UserError
from sae_dist.common.seeds import generator
from sae_dist.live.units import Unit
from sae_dist.stream import StreamConfig

_MAX_LANES = 64


@dataclass(frozen=True, slots=True, eq=False)
class Lane:
    """Units, of whose trainable tokens every `parts`-th, from the `part`-th on, is this lane's."""

    units: list[Unit]
    part: int = 0
    parts: int = 1

    def trainable(self) -> np.ndarray:
        """The lane's own tokens, int64, counted through the positions of its units."""
        marks = np.concatenate([unit.trainable_NS.ravel() for unit in self.units])
        return np.flatnonzero(marks)[self.part :: self.parts]


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """Neighbouring units, dealt to lanes, each of which gives a share of `num_steps` batches.

    Every lane has equally many units, or equally many lanes share one. `first_step` counts from
    the very first step; `number` in the epoch, whose last round `ends_epoch`.
    """

    epoch: int
    number: int
    first_step: int
    num_steps: int
    lanes: list[Lane]
    ends_epoch: bool = False

    def rows(self, lane: int, lane_tokens: int, seed: int) -> np.ndarray:
        """What a lane gives, int64 [num_steps, lane_tokens], counted through its positions.

        An order of its trainable tokens that the seed and the round fix. What is left after the
        last step is dropped.
        """
        rng = generator(seed, "live", self.epoch, self.number, lane)
        order = rng.permutation(self.lanes[lane].trainable())[: self.num_steps * lane_tokens]
        return order.reshape(self.num_steps, lane_tokens)


@dataclass(frozen=True, slots=True)
class RoundSizes:
    """How many units the rounds have, on `lanes` lanes.

    The very first has `first`, every later one as many as all before it together, up to `most`: so
    what a run passes through the language model is never much more than what it reads. After the
    first epoch all have `most`. A number that cannot be dealt evenly becomes one that can.
    """

    lanes: int
    first: int
    most: int

    def of(self, epoch: int) -> Iterator[int]:
        """The sizes of an epoch's rounds, for a text without end."""
        if epoch:
            yield from repeat(self.most)
        size = min(next(n for n in count(self.first) if self.even(n) == n), self.most)
        total = 0
        while True:
            yield size
            total += size
            size = min(self.even(total), self.most)

    def even(self, num_units: int) -> int:
        """The most of so many units of which each lane has equally many, or several share one."""
        if num_units >= self.lanes:
            return num_units // self.lanes * self.lanes
        return next((n for n in range(num_units, 0, -1) if self.lanes % n == 0), 0)

    def deal(self, units: list[Unit]) -> list[Lane]:
        """An even number of units, in turn; where they are fewer than lanes, neighbours share."""
        lanes, num = self.lanes, len(units)
        if num >= lanes:
            return [Lane(units[lane::lanes]) for lane in range(lanes)]
        parts = lanes // num
        return [Lane([units[lane // parts]], lane % parts, parts) for lane in range(lanes)]


def choose_lanes(config: StreamConfig, num_units: int, unit_tokens: int, batch_tokens: int) -> int:
    """Those that `config` asks for, else what suits `num_units` units and a batch.

    That is the largest number up to 64 that shares a batch, and of which each lane gets equally
    many units, but for a tenth of all, and enough for its share of a batch.
    """
    if config.lanes is not None:
        return config.lanes

    def suits(lanes: int) -> bool:
        units = num_units // lanes  # of a lane; some of their tokens are not trained on
        is_shared = batch_tokens % lanes == 0 and units * lanes >= 0.9 * num_units
        return is_shared and units * unit_tokens // 2 >= batch_tokens // lanes

    return next((n for n in range(min(_MAX_LANES, num_units), 1, -1) if suits(n)), 1)


def rounds(
    units: Callable[[], Iterator[Unit]], sizes: RoundSizes, lane_tokens: int, start_step: int = 0
) -> Iterator[Round]:
    """The rounds of a text for ever, epoch after epoch, from the one that holds `start_step`.

    A round lasts as long as the lane with the fewest trainable tokens; the one at the text's end
    has what is left. All epochs but the first have the same rounds, so that no more than these two
    are gone through to find a step.

    Args:
        units: begins an epoch.
        sizes: of rounds, and the lanes that share each batch.
        lane_tokens: of one lane in a batch.

    Raises:
        UserError: the text does not make one batch.
    """
    first_step, length = 0, 0
    for epoch in count():
        if epoch > 1 and (start_step - first_step) >= length:
            first_step += length  # of an epoch whose length is known nothing need be read
            continue
        held: Round | None = None
        length = 0
        dealing = _dealt(units(), sizes, epoch, lane_tokens)
        for number, (num_steps, dealt) in enumerate(dealing):
            if held is not None and held.first_step + held.num_steps > start_step:
                yield held
            held = Round(epoch, number, first_step + length, num_steps, dealt)
            length += num_steps
        if held is None:
            raise UserError(
                f"found a text that does not give {sizes.lanes} lanes {lane_tokens} tokens each; "
                "expected one batch; give more text or harvest.tokens, or lower batch_tokens, "
                "stream.lanes or harvest.harvest.batch_sequences"
            )
        if held.first_step + held.num_steps > start_step:
            yield replace(held, ends_epoch=True)
        first_step += length


def _dealt(
    units: Iterator[Unit], sizes: RoundSizes, epoch: int, lane_tokens: int
) -> Iterator[tuple[int, list[Lane]]]:
    """Steps and lanes of every round that lasts at least a step."""
    for size in sizes.of(epoch):
        together = list(islice(units, size))
        if not together:
            return
        lanes = sizes.deal(together[: sizes.even(len(together))])
        num_steps = min(len(lane.trainable()) for lane in lanes) // lane_tokens
        if num_steps:
            yield num_steps, lanes
