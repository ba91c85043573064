"""Which coders are compared, and on how much."""

from dataclasses import dataclass


@dataclass(kw_only=True, slots=True)
class PairConfig:
    """How rungs of one site and kind are compared, each with the next narrower one of nearest L0.

    So many `sequences` (0: compare none) are read for insertion, and the first `stitch_sequences`
    for stitching, which is slower. From a cosine of `tau` on two latents count as the same.
    """

    sequences: int = 1024
    stitch_sequences: int = 64
    tau: float = 0.7
