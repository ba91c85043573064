"""The sequences of a store's training units as token ids, which a language model reads anew."""

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count

import numpy as np
import torch
from torch import Tensor

from sae_dist.common.errors import UserError
from sae_dist.common.seeds import generator
from sae_dist.store import Store
from sae_dist.stream import (
    Batch,
    Batches,
    BatchPart,
    HeldOutBatch,
    HeldOutPart,
    Prefetch,
    Step,
    StoredActivations,
    StreamState,
)

IDS, TRAINABLE = "input_ids", "trainable"


class TrainingTokens:
    """An `ActivationSource` whose batches are tokens: `input_ids` [n, S] and `trainable` [n, S].

    All else is as the store's activations have it.
    """

    def __init__(self, store: Store) -> None:
        self._stored, self._store = StoredActivations(store), store
        self.identity, self.widths = self._stored.identity, self._stored.widths
        self.sequence_length = self._stored.sequence_length
        self.num_held_out, self.about = self._stored.num_held_out, self._stored.about
        held_out = {sequence for own in store.held_out for sequence in own}
        every = range(store.layout.num_sequences)
        self._sequences = np.array([one for one in every if one not in held_out], np.int64)
        self.num_tokens = len(self._sequences) * self.sequence_length

    def mean_square(self, site: str) -> float:
        """E‖x‖² of the stored activations."""
        return self._stored.mean_square(site)

    def sample(self, sites: list[str], num_tokens: int, seed: int) -> dict[str, Tensor]:
        """As the store gives it."""
        return self._stored.sample(sites, num_tokens, seed)

    def held_out(self, sites: list[str], part: HeldOutPart) -> Iterator[HeldOutBatch]:
        """As the store gives it."""
        return self._stored.held_out(sites, part)

    def batches(self, sites: list[str], part: BatchPart) -> "TokenStream":
        """See `TokenStream`."""
        return TokenStream(self._store, self._sequences, part)


class TokenStream(Batches):
    """Runs of neighbouring sequences, in an order that is a pure function of (seed, step).

    Each sequence of a batch has as many trainable tokens as the one that has the fewest, its first:
    so every rank has equally many, and the same ones are chosen in every world.
    """

    def __init__(self, store: Store, sequences: np.ndarray, part: BatchPart) -> None:
        """Raises UserError for a batch that is not of whole sequences for each rank."""
        super().__init__(part)
        length = store.layout.sequence_length
        self._store, self._sequences = store, sequences
        self._size, rest = divmod(part.batch_tokens, length)
        if rest or not self._size or self._size % part.world or self._size > len(sequences):
            raise UserError(
                f"found batch_tokens={part.batch_tokens} for {len(sequences)} sequences of "
                f"{length} tokens and {part.world} ranks; expected whole sequences, as many for "
                f"each rank; choose a multiple of {length * part.world}"
            )

    def _start(self, threads: ExitStack) -> Prefetch[Step]:
        ahead = Prefetch(self._batches(), self._part.config.batches_ahead)
        threads.callback(ahead.close)
        return ahead

    def _batches(self) -> Iterator[Step]:
        part, size = self._part, self._size
        steps_per_epoch, order = len(self._sequences) // size, np.zeros(0, np.int64)
        own = slice(part.rank * size // part.world, (part.rank + 1) * size // part.world)
        for step in count(self._step):
            epoch, place = divmod(step, steps_per_epoch)
            if not len(order) or place == 0:
                order = generator(part.seed, "finetune", epoch).permutation(steps_per_epoch)
            first = int(order[place]) * size
            ids_NS, trainable_NS = self._read(self._sequences[first : first + size])
            least = trainable_NS.sum(1).min()
            if not least:
                raise UserError(
                    f"found a sequence from {self._sequences[first]} on without a token to train "
                    "on; expected some in each; choose another seed, or another store"
                )
            trainable_NS = trainable_NS & (trainable_NS.cumsum(1) <= least)
            acts = {IDS: ids_NS[own].long(), TRAINABLE: trainable_NS[own]}
            state = StreamState(step=step + 1, epoch=(step + 1) // steps_per_epoch)
            yield Batch(acts=acts, index=None), state

    def _read(self, sequences: np.ndarray) -> tuple[Tensor, Tensor]:
        """Ids and what is trainable of them; neighbours are read together."""
        runs = np.split(sequences, np.flatnonzero(np.diff(sequences) != 1) + 1)
        read = [self._store.read_tokens(range(int(r[0]), int(r[-1]) + 1)) for r in runs]
        ids, trainable = (np.concatenate(parts) for parts in zip(*read, strict=True))
        return torch.from_numpy(ids), torch.from_numpy(trainable)
