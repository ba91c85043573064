"""How much latents are watched, and what is kept of each."""

from dataclasses import dataclass, field

from sae_dist.common.settings import setting
from sae_dist.parallel import SharingConfig


@dataclass(kw_only=True, slots=True)
class WatchConfig:
    """How much the latents of a run are watched, and what is kept of each.

    `rungs` names some (null: all), also by patterns (`topk-*`); what is there already, of the same
    coder, sequences and settings, is not made again. The first `max_sequences` (null: all) are
    read. About `batch_tokens` pass a coder at once, in whole sequences, and about `part_tokens` are
    read and written at once: so many a start that was ended loses.

    Of each latent the `strongest` sequences are kept, and of those below, in `quantiles` equal
    parts by strength, `per_quantile` of each part: `window` tokens around where it is strongest.
    `logits` of the vocabulary's tokens at either end, and so many `neighbours` (0: none). Then a
    process holds `memory_gib` of activations.
    """

    rungs: list[str] | None = None
    max_sequences: int | None = setting(2048, min=1)
    batch_tokens: int = setting(4096, min=1)
    part_tokens: int = setting(32768, min=1)
    strongest: int = setting(20, min=1)
    quantiles: int = setting(5, min=1)
    per_quantile: int = setting(5, min=0)
    window: int = setting(32, min=1)
    logits: int = setting(10, min=1)
    neighbours: int = setting(10, min=0)
    memory_gib: float = setting(1.0, above=0)
    parallel: SharingConfig = field(default_factory=SharingConfig)
