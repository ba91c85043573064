"""What a store is asked to be."""

from dataclasses import dataclass
from enum import StrEnum

from sae_dist.common.dtypes import FloatDtype
from sae_dist.common.settings import setting


class NonFinite(StrEnum):
    """What becomes of a trainable token with NaN or infinity: the end, or it is dropped."""

    fail = "fail"
    drop = "drop"


@dataclass(kw_only=True, slots=True)
class StoreConfig:
    """How to store activations: sizes are of all sites together, `held_out` a share of shards.

    `shard_mib: null` makes a 4,096th of all a shard, between 256 MiB and 12 GiB and no more than
    1 GiB a site: two shards are held in memory by each process of a harvest.

    `dtype` int8 stores bfloat16 in half the bytes, off by up to 1/254 of a token's largest value
    (`store/unit.py`).

    Trainable tokens that are not finite end the harvest, or are dropped; so are those longer than
    `max_norm` times the median norm of a shard's trainable tokens at a site (None: any length).
    """

    dtype: FloatDtype = FloatDtype.bfloat16
    chunk_mib: float = setting(2.0, above=0)
    shard_mib: float | None = setting(None, above=0)
    held_out: float = setting(0.05, min=0, below=1)
    non_finite: NonFinite = NonFinite.fail
    max_norm: float | None = setting(None, above=1)


@dataclass(kw_only=True, slots=True)
class CacheConfig:
    """A folder on this node's own disk that keeps chunks of stores far away; None: nothing is kept.

    All processes of a node share it, and runs one after the other; it takes `gib` GiB at most.
    """

    folder: str | None = None
    gib: float = setting(100.0, above=0)
