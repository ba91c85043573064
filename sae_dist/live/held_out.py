"""Whole sequences of a text, with what a language model makes of them."""

import math
from collections.abc import Iterable, Iterator

import torch

from sae_dist.live.passes import Passes
from sae_dist.live.units import Unit
from sae_dist.stream import HeldOutBatch, HeldOutPart, in_batches


def in_parts(
    units: Iterable[Unit], num_sequences: int, passes: Passes | None, part: HeldOutPart
) -> Iterator[HeldOutBatch]:
    """One part of the sequences of some units, in order: every `parts`-th run of units that makes
    up whole batches, since nobody knows how long the text is.

    Args:
        num_sequences: that the units have, if the text is long enough.
        passes: runs the language model; None gives tokens alone.
    """
    return in_batches(_own(units, num_sequences, passes, part), part.batch_sequences)


def _own(
    units: Iterable[Unit], num_sequences: int, passes: Passes | None, part: HeldOutPart
) -> Iterator[HeldOutBatch]:
    total, given = min(part.max_sequences or num_sequences, num_sequences), 0
    for unit in units:
        size = len(unit.ids_NS)
        run = math.lcm(size, part.batch_sequences)
        number, batches = given // run, run // part.batch_sequences
        is_done = part.done.issuperset(range(number * batches, (number + 1) * batches))
        if number % part.parts == part.part and not is_done:
            acts = {} if passes is None else passes(unit)
            yield HeldOutBatch(
                sequences=torch.arange(unit.number * size, (unit.number + 1) * size),
                input_ids=torch.from_numpy(unit.ids_NS).long(),
                trainable=torch.from_numpy(unit.trainable_NS),
                acts={site: acts_NSD.cpu() for site, acts_NSD in acts.items()},
            ).cut(0, total - given)
        given += size
        if given >= total:
            return
