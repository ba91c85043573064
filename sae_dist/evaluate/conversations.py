"""Prompts, and what a finetune says to them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import sae_dist.lm as language  # lazily: what only declares needs no transformers
from sae_dist.common.log import progress
from sae_dist.common.seeds import derive, generator
from sae_dist.evaluate.config import TransferConfig
from sae_dist.parallel import Mesh

if TYPE_CHECKING:
    from sae_dist.lm import LM

PARTS = ("prompt", "rollout")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt between a finetune's prefixes: its ids, and which of them are measured.

    That is the prompt and the model's prefix, without special tokens.
    """

    ids: list[int]
    measured: list[bool]


@dataclass(frozen=True, slots=True, eq=False)
class Conversations:
    """A batch of prompts and rollouts.

    Attributes:
        ids_NS: int64, filled up at the end, which no token before it sees.
        part_NS: int64, 1 + the place in `PARTS` of what a token is measured as, 0 if not at all.
    """

    ids_NS: Tensor
    part_NS: Tensor

    @property
    def masks_PNS(self) -> Tensor:
        """Of each part the tokens that are measured as that."""
        return torch.stack([self.part_NS == 1 + place for place in range(len(PARTS))])

    @property
    def measured_NS(self) -> Tensor:
        """The tokens of all parts."""
        return self.part_NS > 0


def converse(
    lm: "LM", prompts: Sequence[Prompt], special: Sequence[int], config: TransferConfig, mesh: Mesh
) -> Iterator[Conversations]:
    """This part's batches, with a progress bar over all parts'.

    Batches and seeds are the same on every mesh. Along the latent axis one process speaks, and the
    others are told. Of rollouts what is not in `special` is measured.
    """
    order = generator(config.seed, "prompts").permutation(len(prompts)).tolist()
    unmeasured = set(special)
    longest = max(len(prompt.ids) for prompt in prompts) + config.rollout_tokens
    starts = range(0, config.sequences, config.batch_sequences)
    with progress(total=config.sequences, desc="roll out", unit="sequence") as bar:
        for start in starts[mesh.data.index :: mesh.data.size]:
            which = range(start, min(start + config.batch_sequences, config.sequences))
            both_2NS = torch.zeros(2, len(which), longest, dtype=torch.int64).to(lm.model.device)
            if mesh.latent.index == 0:
                chosen = [prompts[order[number % len(order)]] for number in which]
                seeds = [derive(config.seed, "sequence", number) for number in which]
                limits = config.rollout_tokens, config.temperature
                answers = language.rollouts(lm.model, [p.ids for p in chosen], seeds, *limits)
                for row, (prompt, answer) in enumerate(zip(chosen, answers, strict=True)):
                    said = [0 if token in unmeasured else 2 for token in answer]
                    parts = [int(measured) for measured in prompt.measured] + said
                    both_2NS[:, row, : len(parts)] = torch.tensor([prompt.ids + answer, parts])
            yield Conversations(*mesh.latent.all_reduce(both_2NS))
            bar.update(min(len(which) * mesh.data.size, config.sequences - bar.n))
