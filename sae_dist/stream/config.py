"""How a store is read."""

from dataclasses import dataclass

from sae_dist.common.settings import setting


@dataclass(kw_only=True, slots=True)
class StreamConfig:
    """How to read a store; `lanes` and `bucket_tokens` (of all lanes together) fix the order.

    Without `lanes` there are as many as suit chunks and batch (`order.fitting_lanes`), whatever
    the number of ranks.
    """

    lanes: int | None = setting(None, min=1)
    bucket_tokens: int = setting(2**20, min=1)
    read_threads: int = setting(4, min=1)
    batches_ahead: int = setting(4, min=1)
