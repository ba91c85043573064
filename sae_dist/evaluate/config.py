"""How much is evaluated, and on which mesh."""

from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING

from sae_dist.common.errors import UserError
from sae_dist.evaluate.pairs.config import PairConfig

if TYPE_CHECKING:
    from sae_dist.parallel import World


@dataclass(kw_only=True, slots=True)
class EvaluationConfig:
    """How much is evaluated, and on which mesh.

    `max_sequences` (null: all) bounds the held-out sequences; `lm_sequences` those of them that
    are also run through the language model (0: none), and `uniformity_sequences` those through
    which it is differentiated, at `uniformity_positions` of each. About `batch_tokens` pass a coder
    at once, in whole sequences, and so many (or `lm_batch_sequences` sequences) the language model,
    whose logits outweigh all else. `latent` processes share each coder's latents, the others its
    sequences.
    """

    max_sequences: int | None = None
    lm_sequences: int = 2048
    uniformity_sequences: int = 64
    uniformity_positions: int = 8
    batch_tokens: int = 4096
    lm_batch_sequences: int | None = None
    latent: int = 1
    pairs: PairConfig = field(default_factory=PairConfig)


_LEAST = {
    "max_sequences": 1,
    "lm_sequences": 0,
    "uniformity_sequences": 0,
    "uniformity_positions": 1,
    "batch_tokens": 1,
    "lm_batch_sequences": 1,
    "latent": 1,
    "pairs.sequences": 0,
    "pairs.stitch_sequences": 1,
}


def check(config: EvaluationConfig, world: "World") -> None:
    """Raise UserError for a setting out of bounds, or a mesh that does not fit the world."""
    for name, bound in _LEAST.items():
        value = attrgetter(name)(config)
        if value is not None and value < bound:
            raise UserError(f"{name}={value}; expected at least {bound}")
    if world.size % config.latent:
        raise UserError(
            f"latent={config.latent} must divide the {world.size} processes; choose a divisor"
        )
