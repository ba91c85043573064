"""How activations are mixed and read."""

from dataclasses import dataclass

from sae_dist.common.settings import setting


@dataclass(kw_only=True, slots=True)
class StreamConfig:
    """How activations are mixed and read; `bucket_tokens` (of all ranks together) fixes the order.

    So many tokens are mixed with each other, and of a store 64 batches at least. `lanes` are those
    of `store=live` (`live/rounds.py`), which the ranks must divide.
    """

    lanes: int | None = setting(None, min=1)
    bucket_tokens: int = setting(2**20, min=1)
    read_threads: int = setting(4, min=1)
    batches_ahead: int = setting(4, min=1)
