"""Which coders are compared, and on how much."""

from dataclasses import dataclass

from sae_dist.common.settings import setting


@dataclass(kw_only=True, slots=True)
class PairConfig:
    """How rungs of one site and kind are compared, each with the next narrower one of nearest L0.

    So many `sequences` (0: compare none) are read for insertion, and the first `stitch_sequences`
    for stitching, which is slower. From a cosine of `tau` on two latents count as the same.
    """

    sequences: int = setting(1024, min=0)
    stitch_sequences: int = setting(64, min=1)
    tau: float = setting(0.7, above=0, max=1)
