"""A text as units: sequences that pass the language model together, always the same ones."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import numpy as np
from transformers import PreTrainedTokenizerBase

from sae_dist.common.errors import UserError
from sae_dist.text import TextConfig, documents, pack


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """Unit `number` of a text: `ids_NS` int32, `trainable_NS` bool."""

    number: int
    ids_NS: np.ndarray
    trainable_NS: np.ndarray


class TextUnits:
    """The first `num_tokens` of a text, N sequences a unit; every 1/`held_out`-th is held out.

    The first unit is held out, if any is. A unit that is not full is dropped.

    Attributes:
        unit_sequences, sequence_length, unit_tokens: of a unit, of a sequence, of a unit.
        num_units, num_training: of all, and of those trained on, if the text is long enough.
        num_held_out: sequences that are held out, likewise.
        num_training_tokens: about as many are trained on: each sequence's first token is never.

    Raises:
        UserError: there is not one unit, or a share of units that leaves none for training.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        text: TextConfig,
        num_tokens: int,
        unit_sequences: int,
        held_out: float,
    ) -> None:
        if not 0 <= held_out <= 0.5:
            raise UserError(
                f"found held_out={held_out:g}; expected at most half of a text; change "
                "harvest.writer.held_out"
            )
        if unit_sequences < 1:
            raise UserError(f"harvest.batch_sequences={unit_sequences}; expected at least 1")
        self._tokenizer, self._text = tokenizer, text
        self._period = round(1 / held_out) if held_out else 0
        self.unit_sequences, self.sequence_length = unit_sequences, text.sequence_length
        self.unit_tokens = unit_sequences * text.sequence_length
        self.num_units = num_tokens // self.unit_tokens
        if not self.num_units:
            raise UserError(
                f"found harvest.tokens={num_tokens}; expected at least {self.unit_tokens}, one "
                "pass of the language model; raise it"
            )
        num_held_out = -(-self.num_units // self._period) if self._period else 0
        self.num_held_out = num_held_out * unit_sequences
        self.num_training = self.num_units - num_held_out
        positions = text.sequence_length - max(1, text.exclude_prefix)
        self.num_training_tokens = self.num_training * unit_sequences * positions

    def training(self) -> Iterator[Unit]:
        """The units that are trained on, once."""
        return (unit for unit in self._units() if not self._is_held_out(unit.number))

    def held_out(self) -> Iterator[Unit]:
        """The others."""
        return (unit for unit in self._units() if self._is_held_out(unit.number))

    def _is_held_out(self, number: int) -> bool:
        return bool(self._period) and number % self._period == 0

    def _units(self) -> Iterator[Unit]:
        blocks = pack(
            documents(self._text),
            self._tokenizer,
            self._text,
            num_tokens=self.num_units * self.unit_tokens,
            block_sequences=self.unit_sequences,
        )
        with closing(blocks):
            for number, block in enumerate(islice(blocks, self.num_units)):
                if len(block.ids_NS) == self.unit_sequences:
                    yield Unit(number, block.ids_NS, block.trainable_NS)
