"""The sequences on which latents are watched: read once, and kept beside what is found."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sae_dist.common.errors import UserError
from sae_dist.common.files import atomic_path
from sae_dist.latents.config import WatchConfig
from sae_dist.latents.folder import ABOUT, FOLDER, TOKENS, TRAINABLE, VERSION, About, write_about
from sae_dist.stream import HeldOutBatch, HeldOutPart


class Sequences(Protocol):
    """Sequences and their activations; what an `ActivationSource` holds out is such."""

    identity: str
    widths: dict[str, int]
    num_held_out: int
    sequence_length: int
    about: dict[str, Any]

    def held_out(self, sites: list[str], part: HeldOutPart) -> Iterator[HeldOutBatch]:
        """One part of them, in order; without activations where no site is asked for."""


def origin(source: Sequences, config: WatchConfig) -> dict[str, Any]:
    """What tells these sequences from others, and where they come from."""
    about = source.about
    return {
        "store": about.get("store"),
        "text": about.get("text"),
        "identity": source.identity,
        "max_sequences": config.max_sequences,
    }


def part_sequences(source: Sequences, config: WatchConfig) -> int:
    """How many are read, and written, at once."""
    return max(1, config.part_tokens // source.sequence_length)


def keep(run: Path, source: Sequences, config: WatchConfig) -> tuple[About, np.ndarray]:
    """Write the sequences' tokens into a run's folder; of all processes the first does it.

    Returns:
        what is said of them, and the source's own numbers for them, which rise, int64 [N].

    Raises:
        UserError: none of their tokens is one that a coder is given.
    """
    part = HeldOutPart(0, 1, config.max_sequences, part_sequences(source, config))
    numbers, ids, trainable = [], [], []
    for batch in source.held_out([], part):
        numbers.append(batch.sequences.numpy())
        ids.append(batch.input_ids.numpy().astype(np.int32))
        trainable.append(batch.trainable.numpy())
    trainable_NS = np.concatenate(trainable) if trainable else np.zeros((0, 1), bool)
    if not trainable_NS.any():
        raise UserError(
            f"found no token to read in {source.about.get('store')}; expected some that are "
            "trainable among the held-out ones; hold out more, or raise max_sequences"
        )
    folder = run / FOLDER
    for name, array in ((TOKENS, np.concatenate(ids)), (TRAINABLE, trainable_NS)):
        with atomic_path(folder / name) as temporary, temporary.open("wb") as file:
            np.save(file, array)
    about = About(
        version=VERSION,
        run=run.name,
        source=origin(source, config),
        lm=source.about.get("lm"),
        num_sequences=len(trainable_NS),
        sequence_length=source.sequence_length,
        num_tokens=int(trainable_NS.sum()),
    )
    write_about(folder / ABOUT, about)
    return about, np.concatenate(numbers)
