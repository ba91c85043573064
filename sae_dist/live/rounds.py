"""Which units are in memory together, and how many steps they last: from the tokens alone."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count, islice

import numpy as np

from sae_dist.common.errors import UserError
from sae_dist.common.seeds import generator
from sae_dist.live.units import Unit


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """Neighbouring units, dealt to lanes, each of which gives a share of `num_steps` batches.

    Every lane has equally many units. `first_step` counts from the very first step; `number` in
    the epoch, whose last round `ends_epoch`.
    """

    epoch: int
    number: int
    first_step: int
    num_steps: int
    lanes: list[list[Unit]]
    ends_epoch: bool = False

    def rows(self, lane: int, lane_tokens: int, seed: int) -> np.ndarray:
        """What a lane gives, int64 [num_steps, lane_tokens], counted through its positions.

        An order of its trainable tokens that the seed and the round fix. What is left after the
        last step is dropped.
        """
        rows = np.flatnonzero(_trainable(self.lanes[lane]))
        dice = generator(seed, "live", self.epoch, self.number, lane)
        order = dice.permutation(rows)[: self.num_steps * lane_tokens]
        return order.reshape(self.num_steps, lane_tokens)


def rounds(
    units: Callable[[], Iterator[Unit]],
    lanes: int,
    lane_units: int,
    lane_tokens: int,
    start_step: int = 0,
) -> Iterator[Round]:
    """The rounds of a text for ever, epoch after epoch, from the one that holds `start_step`.

    A round is the next `lanes` · `lane_units` units, dealt in turn; at the text's end as many a
    lane as there are. It lasts as long as the lane with the fewest trainable tokens. All epochs
    have the same rounds, so that no more than one is gone through to find a step.

    Args:
        units: begins an epoch.
        lanes: that share each batch.
        lane_units: of one lane in a round.
        lane_tokens: of one lane in a batch.

    Raises:
        UserError: the text does not make one batch.
    """
    first_step, length = 0, 0
    for epoch in count():
        if length and (start_step - first_step) >= length:
            first_step += length  # of an epoch whose length is known nothing need be read
            continue
        held: Round | None = None
        length = 0
        for number, (num_steps, dealt) in enumerate(
            _dealt(units(), lanes, lane_units, lane_tokens)
        ):
            if held is not None and held.first_step + held.num_steps > start_step:
                yield held
            held = Round(epoch, number, first_step + length, num_steps, dealt)
            length += num_steps
        if held is None:
            raise UserError(
                f"found a text that does not give {lanes} lanes {lane_tokens} tokens each; "
                "expected one batch; give more text or harvest.tokens, or lower batch_tokens, "
                "stream.lanes or harvest.harvest.batch_sequences"
            )
        if held.first_step + held.num_steps > start_step:
            yield replace(held, ends_epoch=True)
        first_step += length


def _dealt(
    units: Iterator[Unit], lanes: int, lane_units: int, lane_tokens: int
) -> Iterator[tuple[int, list[list[Unit]]]]:
    """Steps and lanes of every round that lasts at least a step."""
    while together := list(islice(units, lanes * lane_units)):
        each = len(together) // lanes
        dealt = [list(together[lane : each * lanes : lanes]) for lane in range(lanes)]
        num_steps = min(int(_trainable(lane).sum()) for lane in dealt) // lane_tokens
        if num_steps:
            yield num_steps, dealt


def _trainable(units: list[Unit]) -> np.ndarray:
    marks = [unit.trainable_NS.ravel() for unit in units]
    return np.concatenate(marks) if marks else np.zeros(0, bool)
